// A stand-in for TensorRT's header: the few declarations that the example in docs/export.md uses, over memory
// of the host. An "engine" is a plan of floats, and "running" it copies them to the outputs.
#pragma once
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace nvinfer1 {

class ILogger {
 public:
  enum class Severity : std::int32_t { kINTERNAL_ERROR, kERROR, kWARNING, kINFO, kVERBOSE };
  virtual void log(Severity severity, char const* message) noexcept = 0;
  virtual ~ILogger() = default;
};

struct Dims {
  std::int32_t nbDims;
  std::int64_t d[8];
};

struct Dims3 : Dims {
  Dims3(std::int64_t a, std::int64_t b, std::int64_t c) : Dims{3, {a, b, c}} {}
};

inline int alive = 0;  // contexts and engines

class IExecutionContext {
 public:
  explicit IExecutionContext(std::vector<float> plan) : plan_(std::move(plan)) { ++alive; }
  ~IExecutionContext() { --alive; }
  bool setInputShape(char const* name, Dims const& dims) noexcept {
    length_ = dims.d[1];
    return std::string(name) == "features" && dims.nbDims == 3 && dims.d[0] == 1;
  }
  bool setTensorAddress(char const* name, void* data) noexcept {
    places_[name] = static_cast<float*>(data);
    return true;
  }
  // plan: classes, then scores (T, C), video scores (C), and what the features must begin with.
  bool enqueueV3(cudaStream_t) noexcept {
    const auto classes = static_cast<std::size_t>(plan_[0]);
    const std::size_t cells = static_cast<std::size_t>(length_) * classes;
    if (places_.size() != 5 || places_.at("features")[0] != plan_.back()) return false;
    std::memcpy(places_.at("scores"), plan_.data() + 1, cells * sizeof(float));
    std::memcpy(places_.at("video_scores"), plan_.data() + 1 + cells, classes * sizeof(float));
    return true;
  }

 private:
  std::vector<float> plan_;
  std::int64_t length_ = 0;
  std::map<std::string, float*> places_;
};

class ICudaEngine {
 public:
  explicit ICudaEngine(std::vector<float> plan) : plan_(std::move(plan)) { ++alive; }
  ~ICudaEngine() { --alive; }
  IExecutionContext* createExecutionContext() noexcept { return new IExecutionContext(plan_); }

 private:
  std::vector<float> plan_;
};

class IRuntime {
 public:
  void setEngineHostCodeAllowed(bool allowed) noexcept { allowed_ = allowed; }
  ICudaEngine* deserializeCudaEngine(void const* blob, std::size_t size) noexcept {
    if (allowed_) return nullptr;  // nobody said that this plan is trusted
    std::vector<float> plan(size / sizeof(float));
    std::memcpy(plan.data(), blob, size);
    return new ICudaEngine(plan);
  }

 private:
  bool allowed_ = false;
};

inline IRuntime* createInferRuntime(ILogger&) noexcept { return new IRuntime; }

}  // namespace nvinfer1
