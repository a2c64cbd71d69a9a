// CUDA's driver and runtime as far as TVM's CUDA runtime calls them, on the processor: one device whose memory is this process's, and
// whose threads are contexts that run one at a time, in the order of their numbers, until they end or wait for one another.
// A "module" is the path of a library that was compiled with kernels.h. Memory begins as bytes 0xff, which are no numbers as floats, so that
// reading what was not written is seen.
#include <dlfcn.h>
#include <setjmp.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

namespace {

struct Dim3 { unsigned x, y, z; };
constexpr int kOk = 0, kInvalid = 1, kNotFound = 500;
constexpr unsigned kMostThreads = 1024, kWarp = 32;
constexpr std::size_t kStack = 256 << 10;

enum class State { kNew, kReady, kAtWarp, kAtBlock, kEnded };
struct Fiber { jmp_buf place; ucontext_t first; bool begun; std::unique_ptr<char[]> stack; };
struct Kernel { void (*run)(void**); void (*forget)(); };

}  // namespace

extern "C" {
Dim3 cuda_thread, cuda_block, cuda_block_size, cuda_grid_size;
unsigned long long cuda_exchange[kMostThreads + kWarp];
}

namespace {

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "CUDA on the processor: %s\n", what);
  std::exit(70);
}

// A block that runs.
State states[kMostThreads];
Fiber* fiber_of[kMostThreads];
unsigned count, current, next_new;
jmp_buf scheduler;
std::vector<std::unique_ptr<Fiber>> fibers;
std::vector<Fiber*> idle;
const Kernel* kernel;
void** parameters;

void enter(unsigned thread) {
  current = thread;
  cuda_thread = {thread % cuda_block_size.x, thread / cuda_block_size.x % cuda_block_size.y, thread / (cuda_block_size.x * cuda_block_size.y)};
}

void leave(Fiber* fiber) {
  // Not swapcontext, which asks the kernel for the signals' mask each time.
  if (!_setjmp(fiber->place)) _longjmp(scheduler, 1);
}

// Threads that never wait share one context, one after the other.
void run_threads() {
  for (;;) {
    kernel->run(parameters);
    states[current] = State::kEnded;
    Fiber* own = fiber_of[current];
    if (next_new < count) {
      fiber_of[next_new] = own;
      enter(next_new++);
    } else {
      idle.push_back(own);
      leave(own);
    }
  }
}

Fiber* free_fiber() {
  if (idle.empty()) {
    auto made = std::make_unique<Fiber>();
    made->stack = std::make_unique<char[]>(kStack);
    made->begun = false;
    getcontext(&made->first);
    made->first.uc_stack.ss_sp = made->stack.get();
    made->first.uc_stack.ss_size = kStack;
    makecontext(&made->first, run_threads, 0);
    idle.push_back(made.get());
    fibers.push_back(std::move(made));
  }
  Fiber* found = idle.back();
  idle.pop_back();
  return found;
}

void wait(State state) {
  states[current] = state;
  leave(fiber_of[current]);
}

void resume(unsigned thread) {
  enter(thread);
  Fiber* fiber = fiber_of[thread];
  if (_setjmp(scheduler)) return;
  if (fiber->begun) _longjmp(fiber->place, 1);
  fiber->begun = true;
  setcontext(&fiber->first);
}

// Lets those who wait for their warp go on where nobody else of it can run.
bool release_warps() {
  bool any = false;
  for (unsigned i = 0; i < count; ++i)
    if (states[i] == State::kAtWarp) states[i] = State::kReady, any = true;
  return any;
}

void run_block() {
  std::memset(cuda_exchange, 0xff, sizeof cuda_exchange);
  kernel->forget();
  for (unsigned i = 0; i < count; ++i) states[i] = State::kNew;
  next_new = 0;
  while (next_new < count) {
    fiber_of[next_new] = free_fiber();
    resume(next_new++);
  }
  for (;;) {
    unsigned waiting = 0;
    do {
      for (unsigned i = 0; i < count; ++i)
        if (states[i] == State::kReady) resume(i);
    } while (release_warps());
    for (unsigned i = 0; i < count; ++i)
      if (states[i] == State::kAtBlock) states[i] = State::kReady, ++waiting;
    if (!waiting) return;
  }
}

}  // namespace

extern "C" {

void cuda_wait_block() { wait(State::kAtBlock); }
void cuda_wait_warp() { wait(State::kAtWarp); }

struct LaunchConfig {
  unsigned grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes;
  void* stream;
  void* attributes;
  unsigned attribute_count;
};

int cuLaunchKernelEx(const LaunchConfig* config, Kernel* launched, void** given, void**) {
  const auto& c = *config;
  const unsigned long threads = static_cast<unsigned long>(c.block_x) * c.block_y * c.block_z;
  if (threads == 0 || threads > kMostThreads || c.grid_x == 0 || c.grid_y == 0 || c.grid_z == 0) return kInvalid;
  if (c.shared_bytes) fail("shared memory of a size known at launch is not there");
  kernel = launched;
  parameters = given;
  count = threads;
  cuda_block_size = {c.block_x, c.block_y, c.block_z};
  cuda_grid_size = {c.grid_x, c.grid_y, c.grid_z};
  for (unsigned z = 0; z < c.grid_z; ++z)
    for (unsigned y = 0; y < c.grid_y; ++y)
      for (unsigned x = 0; x < c.grid_x; ++x) {
        cuda_block = {x, y, z};
        run_block();
      }
  return kOk;
}

int cuModuleLoadData(void** module, const void* image) {
  *module = dlopen(static_cast<const char*>(image), RTLD_NOW | RTLD_LOCAL);
  if (!*module) fail(dlerror());
  return kOk;
}

int cuModuleGetFunction(Kernel** found, void* module, const char* name) {
  char symbol[512];
  std::snprintf(symbol, sizeof symbol, "%s_launch", name);
  void* run = dlsym(module, symbol);
  if (!run) return kNotFound;
  *found = new Kernel{reinterpret_cast<void (*)(void**)>(run), reinterpret_cast<void (*)()>(dlsym(module, "cuda_forget_shared"))};
  return kOk;
}

int cuModuleUnload(void*) { return kOk; }  // whoever calls has ended soon
int cuGetErrorName(int, const char** text) { *text = "error"; return kOk; }
int cuGetErrorString(int, const char** text) { *text = "error"; return kOk; }

const char* cudaGetErrorName(int) { return "error"; }
const char* cudaGetErrorString(int) { return "error"; }
int cudaGetLastError() { return kOk; }
int cudaPeekAtLastError() { return kOk; }
int cudaGetDeviceCount(int* found) { *found = 1; return kOk; }
int cudaGetDevice(int* device) { *device = 0; return kOk; }
int cudaSetDevice(int device) { return device ? kInvalid : kOk; }
int cudaMemGetInfo(std::size_t* free, std::size_t* all) { *free = *all = std::size_t{8} << 30; return kOk; }
int cudaStreamSynchronize(void*) { return kOk; }

int cudaDeviceGetAttribute(int* value, int attribute, int) {
  switch (attribute) {
    case 1: *value = kMostThreads; return kOk;
    case 10: *value = kWarp; return kOk;
    case 75: *value = 9; return kOk;  // compute capability
    case 76: *value = 0; return kOk;
  }
  return kInvalid;
}

int cudaMalloc(void** memory, std::size_t bytes) {
  *memory = std::aligned_alloc(256, (bytes + 511) / 256 * 256);
  std::memset(*memory, 0xff, bytes);
  return kOk;
}

int cudaFree(void* memory) { std::free(memory); return kOk; }
int cudaMallocHost(void** memory, std::size_t bytes) { return cudaMalloc(memory, bytes); }
int cudaFreeHost(void* memory) { return cudaFree(memory); }
int cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, int, void*) { std::memmove(to, from, bytes); return kOk; }

#define MISSING(name) \
  int name() { fail(#name " is not there"); }
MISSING(cuDeviceGetName) MISSING(cuFuncSetAttribute) MISSING(cuTensorMapEncodeTiled) MISSING(cudaEventCreate) MISSING(cudaEventDestroy)
MISSING(cudaEventElapsedTime) MISSING(cudaEventRecord) MISSING(cudaEventSynchronize) MISSING(cudaGetDeviceProperties)
MISSING(cudaGraphDestroy) MISSING(cudaGraphExecDestroy) MISSING(cudaGraphInstantiate) MISSING(cudaGraphLaunch)
MISSING(cudaMemcpyPeerAsync) MISSING(cudaStreamBeginCapture) MISSING(cudaStreamCreate) MISSING(cudaStreamCreateWithFlags)
MISSING(cudaStreamDestroy) MISSING(cudaStreamEndCapture) MISSING(cudaStreamWaitEvent)
}
