/* Runs compiled models with TVM's runtime alone, for the emulator: no Python is needed on the other architecture.
 *
 *   run_model LIBTVM_RUNTIME.so MODEL.so < calls > replies
 *
 * All numbers are little-endian int64 unless said otherwise. A call is: 0 for the virtual machine's `main` or 1 for the
 * plain function `box_resize`; the number of tensors; for each its DLPack type code, bits, dimensions, lengths, and data;
 * and the three integers that box_resize takes behind its tensors. A reply is the number of tensors (the results of main;
 * the last tensor of box_resize), and for each the number of bytes, and the data. Exit code 1 and a message on standard
 * error when anything fails.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tvm/ffi/c_api.h>

#define MOST_TENSORS 8
#define MOST_DIMENSIONS 8
#define RESIZE_INTEGERS 3
#define MOST_BYTES ((int64_t)1 << 30)

typedef struct {
  DLManagedTensor managed;
  int64_t shape[MOST_DIMENSIONS];
  int64_t bytes;
} Buffer;

static void fail(const char* what) {
  fprintf(stderr, "run_model: %s\n", what);
  exit(1);
}

static DLTensor* tensor_of(void* object) { return (DLTensor*)((char*)object + sizeof(TVMFFIObject)); }

static void check(int code) {
  TVMFFIObjectHandle error = NULL;
  TVMFFIErrorCell* cell;
  if (code == 0) return;
  TVMFFIErrorMoveFromRaised(&error);
  if (error == NULL) fail("TVM failed without a message");
  cell = (TVMFFIErrorCell*)((char*)error + sizeof(TVMFFIObject));
  fprintf(stderr, "run_model: %.*s\n", (int)cell->message.size, cell->message.data);
  exit(1);
}

static TVMFFIObjectHandle global(const char* name) {
  TVMFFIByteArray text = {name, strlen(name)};
  TVMFFIObjectHandle found = NULL;
  check(TVMFFIFunctionGetGlobal(&text, &found));
  if (found == NULL) fail(name);
  return found;
}

static TVMFFIAny integer(int64_t value) {
  TVMFFIAny any = {0};
  any.type_index = kTVMFFIInt;
  any.v_int64 = value;
  return any;
}

static TVMFFIAny boolean(int value) {
  TVMFFIAny any = integer(value);
  any.type_index = kTVMFFIBool;
  return any;
}

static TVMFFIAny text(const char* value) {
  TVMFFIAny any = {0};
  any.type_index = kTVMFFIRawStr;
  any.v_c_str = value;
  return any;
}

static TVMFFIAny call(TVMFFIObjectHandle function, TVMFFIAny* arguments, int count) {
  TVMFFIAny result = {0};
  result.type_index = kTVMFFINone;
  check(TVMFFIFunctionCall(function, arguments, count, &result));
  return result;
}

static TVMFFIAny object(TVMFFIObjectHandle handle, int32_t type) {
  TVMFFIAny any = {0};
  any.type_index = type;
  any.v_obj = (TVMFFIObject*)handle;
  return any;
}

static TVMFFIObjectHandle member(TVMFFIAny module, const char* name, int look_in_imports) {
  TVMFFIAny arguments[3] = {module, text(name), boolean(look_in_imports)};
  TVMFFIAny found = call(global("ffi.ModuleGetFunction"), arguments, 3);
  if (found.type_index != kTVMFFIFunction) fail(name);
  return found.v_obj;
}

static int64_t read_integer(int* ended) {
  int64_t value = 0;
  if (fread(&value, sizeof value, 1, stdin) != 1) {
    if (ended == NULL) fail("the call is cut off");
    *ended = 1;
  }
  return value;
}

static void nothing(DLManagedTensor* self) { (void)self; }

static TVMFFIAny read_tensor(Buffer* buffer) {
  DLTensor* tensor = &buffer->managed.dl_tensor;
  TVMFFIObjectHandle handle = NULL;
  int64_t count = 1;
  int d;
  memset(buffer, 0, sizeof *buffer);
  tensor->dtype.code = (uint8_t)read_integer(NULL);
  tensor->dtype.bits = (uint8_t)read_integer(NULL);
  tensor->dtype.lanes = 1;
  tensor->device.device_type = kDLCPU;
  tensor->ndim = (int32_t)read_integer(NULL);
  if (tensor->ndim < 1 || tensor->ndim > MOST_DIMENSIONS) fail("too many dimensions");
  for (d = 0; d < tensor->ndim; ++d) {
    buffer->shape[d] = read_integer(NULL);
    if (buffer->shape[d] < 1 || count > MOST_BYTES / buffer->shape[d]) fail("a tensor is too large");
    count *= buffer->shape[d];
  }
  tensor->shape = buffer->shape;
  buffer->bytes = count * tensor->dtype.bits / 8;
  tensor->data = aligned_alloc(64, (size_t)((buffer->bytes + 63) / 64 * 64));
  if (tensor->data == NULL) fail("no memory");
  if (fread(tensor->data, 1, (size_t)buffer->bytes, stdin) != (size_t)buffer->bytes) fail("the data is cut off");
  buffer->managed.deleter = nothing;
  check(TVMFFITensorFromDLPack(&buffer->managed, 0, 0, &handle));
  return object(handle, kTVMFFITensor);
}

static void write_tensor(const DLTensor* tensor) {
  int64_t bytes = tensor->dtype.bits / 8;
  int d;
  for (d = 0; d < tensor->ndim; ++d) bytes *= tensor->shape[d];
  fwrite(&bytes, sizeof bytes, 1, stdout);
  fwrite((const char*)tensor->data + tensor->byte_offset, 1, (size_t)bytes, stdout);
}

int main(int count, char** names) {
  TVMFFIAny module, machine, arguments[MOST_TENSORS + RESIZE_INTEGERS], path;
  TVMFFIAny begin[3];
  TVMFFIObjectHandle run, resize = NULL, size_of, item_of;
  static Buffer buffers[MOST_TENSORS];
  if (count != 3) fail("expected: run_model LIBTVM_RUNTIME.so MODEL.so");
  if (dlopen(names[1], RTLD_NOW | RTLD_GLOBAL) == NULL) fail(dlerror());
  path = text(names[2]);
  module = call(global("ffi.ModuleLoadFromFile"), &path, 1);
  machine = call(member(module, "vm_load_executable", 0), NULL, 0);
  begin[0] = integer(kDLCPU), begin[1] = integer(0), begin[2] = integer(2);
  call(member(machine, "vm_initialization", 0), begin, 3);
  run = member(machine, "main", 0);
  size_of = global("ffi.ArraySize"), item_of = global("ffi.ArrayGetItem");
  for (;;) {
    int ended = 0, i;
    int64_t kind = read_integer(&ended), tensors, results = 1;
    TVMFFIAny result;
    if (ended) return 0;
    tensors = read_integer(NULL);
    if (tensors < 1 || tensors > MOST_TENSORS) fail("too many tensors");
    for (i = 0; i < tensors; ++i) arguments[i] = read_tensor(&buffers[i]);
    if (kind == 1) {
      if (resize == NULL) resize = member(module, "box_resize", 1);
      for (i = 0; i < RESIZE_INTEGERS; ++i) arguments[tensors + i] = integer(read_integer(NULL));
      call(resize, arguments, (int)tensors + RESIZE_INTEGERS);
      fwrite(&results, sizeof results, 1, stdout);
      write_tensor(&buffers[tensors - 1].managed.dl_tensor);
    } else {
      result = call(run, arguments, (int)tensors);
      if (result.type_index == kTVMFFITensor) {
        fwrite(&results, sizeof results, 1, stdout);
        write_tensor(tensor_of(result.v_obj));
      } else {
        results = call(size_of, &result, 1).v_int64;
        fwrite(&results, sizeof results, 1, stdout);
        for (i = 0; i < results; ++i) {
          TVMFFIAny pair[2] = {result, integer(i)};
          TVMFFIAny one = call(item_of, pair, 2);
          write_tensor(tensor_of(one.v_obj));
          TVMFFIObjectDecRef(one.v_obj);
        }
      }
      TVMFFIObjectDecRef(result.v_obj);
    }
    for (i = 0; i < tensors; ++i) {
      TVMFFIObjectDecRef(arguments[i].v_obj);
      free(buffers[i].managed.dl_tensor.data);
    }
    if (fflush(stdout) != 0) fail("the reply cannot be written");
  }
}
