// Decodes one made-up video so many times, and says what it found and what it allocated meanwhile.
// Run under callgrind by test_guard.py: the difference of two counts of calls is what a call executes.
//
//     decode_calls T classes upscale nms calls
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <vector>

#include "aicl_decode.h"

namespace {
std::int64_t allocations = 0;
}

#if defined(__GLIBC__)
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* malloc(std::size_t size) {
  ++allocations;
  return __libc_malloc(size);
}
void* calloc(std::size_t count, std::size_t size) {
  ++allocations;
  return __libc_calloc(count, size);
}
void* realloc(void* memory, std::size_t size) {
  ++allocations;
  return __libc_realloc(memory, size);
}
}
#else
void* operator new(std::size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size > 0 ? size : 1)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
#endif

namespace {

// Between 0 and 1, with 40 peaks of different heights over the video whatever T is. No libm: the same anywhere.
float curve(std::int64_t t, std::int64_t length, std::int64_t c) {
  const double x = static_cast<double>(t) / static_cast<double>(length) * 40.0 + static_cast<double>(c) * 0.37;
  const auto peak = static_cast<std::int64_t>(x);
  const double within = x - static_cast<double>(peak);
  const double height = 0.3 + 0.07 * static_cast<double>((peak * 7 + c * 3) % 10);
  return static_cast<float>(height * 4.0 * within * (1.0 - within));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) return 2;
  const std::int64_t length = std::atoll(argv[1]), classes = std::atoll(argv[2]);
  const int calls = std::atoi(argv[5]);
  std::vector<float> scores(length * classes), video_scores(classes, 1.0f);
  for (std::int64_t t = 0; t < length; ++t) {
    for (std::int64_t c = 0; c < classes; ++c) scores[t * classes + c] = curve(t, length, c);
  }
  aicl_decode_settings settings;
  aicl_decode_settings_init(&settings);
  settings.upscale = std::atoi(argv[3]);
  settings.nms = std::atoi(argv[4]);
  settings.max_segments = static_cast<std::int32_t>(length);
  settings.max_classes = static_cast<std::int32_t>(classes);
  aicl_decode_plan* plan = nullptr;
  char why[256];
  if (aicl_decode_plan_create(&settings, &plan, why, sizeof why) != AICL_DECODE_OK) {
    std::fprintf(stderr, "%s\n", why);
    return 1;
  }
  const std::int64_t capacity = aicl_decode_plan_capacity(plan);
  std::vector<std::int32_t> labels(capacity);
  std::vector<double> values(capacity), segments(2 * capacity);
  std::int64_t count = 0;
  const std::int64_t before = allocations;
  for (int i = 0; i < calls; ++i) {
    if (aicl_decode(plan, scores.data(), video_scores.data(), length, classes, 900, labels.data(), values.data(),
                    segments.data(), capacity, &count) != AICL_DECODE_OK) {
      return 1;
    }
  }
  std::printf("%lld %lld %lld\n", static_cast<long long>(count), static_cast<long long>(allocations - before),
              static_cast<long long>(before));
  aicl_decode_plan_destroy(plan);
  return 0;
}
