// What CUDA source of generated kernels needs to be C++ for the processor. driver.cpp launches what is compiled with it.
#pragma once
#include <cmath>
#include <cstring>
#include <utility>

// The source makes these of long long, which the system's are not.
#define int64_t cuda_int64
#define uint64_t cuda_uint64

struct Dim3 { unsigned x, y, z; };

extern "C" {
// Of the thread that runs; only one does at any time.
extern Dim3 cuda_thread, cuda_block, cuda_block_size, cuda_grid_size;
// Returns when all threads of the block that have not ended are here.
void cuda_wait_block();
// Returns when all threads of the warp that neither ended nor wait for the block are here.
void cuda_wait_warp();
// Eight bytes of each thread of the block that others read.
extern unsigned long long cuda_exchange[];
}

#define threadIdx cuda_thread
#define blockIdx cuda_block
#define blockDim cuda_block_size
#define gridDim cuda_grid_size
#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
// A section of its own, so that each block begins with contents that are no numbers.
#define __shared__ static __attribute__((section("shared_memory")))
#define alignas(bytes) __attribute__((aligned(bytes)))
#define __syncthreads() cuda_wait_block()

// Vectors of two and of four.
#define CUDA_VECTORS(type, two, four)                                   \
  struct __attribute__((aligned(2 * sizeof(type)))) two { type x, y; };        \
  struct __attribute__((aligned(4 * sizeof(type)))) four { type x, y, z, w; }; \
  inline two make_##two(type x, type y) { return {x, y}; }              \
  inline four make_##four(type x, type y, type z, type w) { return {x, y, z, w}; }
CUDA_VECTORS(float, float2, float4)
CUDA_VECTORS(int, int2, int4)
CUDA_VECTORS(unsigned, uint2, uint4)
CUDA_VECTORS(short, short2, short4)
CUDA_VECTORS(unsigned short, ushort2, ushort4)
CUDA_VECTORS(signed char, char2, char4)
CUDA_VECTORS(unsigned char, uchar2, uchar4)

constexpr unsigned kWarp = 32;

// Threads that branch apart are not told apart here: whoever is waited for is found when it comes.
inline unsigned __activemask() { return ~0u; }

template <class T> T cuda_from_lane(T value, unsigned lane, unsigned source) {
  static_assert(sizeof(T) <= sizeof(unsigned long long));
  const unsigned thread = (cuda_thread.z * cuda_block_size.y + cuda_thread.y) * cuda_block_size.x + cuda_thread.x;
  std::memcpy(&cuda_exchange[thread], &value, sizeof(T));
  cuda_wait_warp();
  T found;
  std::memcpy(&found, &cuda_exchange[thread - lane + source], sizeof(T));
  cuda_wait_warp();
  return found;
}

inline unsigned cuda_lane() {
  return ((cuda_thread.z * cuda_block_size.y + cuda_thread.y) * cuda_block_size.x + cuda_thread.x) % kWarp;
}

template <class T> T __shfl_sync(unsigned, T value, int source, int width) {
  const unsigned lane = cuda_lane();
  return cuda_from_lane(value, lane, lane / width * width + unsigned(source) % width);
}

template <class T> T __shfl_down_sync(unsigned, T value, unsigned distance, int width) {
  const unsigned lane = cuda_lane(), source = lane + distance;
  return cuda_from_lane(value, lane, source / width == lane / width ? source : lane);
}

inline float __expf(float x) { return std::exp(x); }
using std::max;
using std::min;

template <class... Parameters, std::size_t... I>
void cuda_call(void (*kernel)(Parameters...), void** given, std::index_sequence<I...>) {
  kernel(*static_cast<Parameters*>(given[I])...);
}

// What the driver finds a kernel by: its name before `_launch`.
#define CUDA_KERNEL(name) \
  extern "C" void name##_launch(void** given) { cuda_apply(name, given); }

template <class... Parameters> void cuda_apply(void (*kernel)(Parameters...), void** given) {
  cuda_call(kernel, given, std::index_sequence_for<Parameters...>{});
}

// The shared memory of all kernels of a library; none where no kernel has any.
extern "C" {
extern char __start_shared_memory[] __attribute__((weak, visibility("hidden")));
extern char __stop_shared_memory[] __attribute__((weak, visibility("hidden")));
inline void cuda_forget() {
  if (__start_shared_memory) std::memset(__start_shared_memory, 0xff, __stop_shared_memory - __start_shared_memory);
}
void cuda_forget_shared() { cuda_forget(); }
}
