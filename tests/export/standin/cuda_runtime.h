// A stand-in for CUDA's header: the few calls that the example in docs/export.md makes, on memory of the host.
#pragma once
#include <cstdlib>
#include <cstring>

using cudaStream_t = struct CUstream_st*;
enum cudaError_t { cudaSuccess };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 };

inline int allocated = 0;

template <class T>
cudaError_t cudaMalloc(T** pointer, std::size_t size) {
  ++allocated;
  *pointer = static_cast<T*>(std::malloc(size));
  return cudaSuccess;
}

inline cudaError_t cudaFree(void* pointer) {
  --allocated;
  std::free(pointer);
  return cudaSuccess;
}

inline cudaError_t cudaMemcpyAsync(void* to, void const* from, std::size_t size, cudaMemcpyKind, cudaStream_t) {
  std::memcpy(to, from, size);
  return cudaSuccess;
}

inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
