// Fused scores to detections: runs above thresholds, outer-inner contrast, and NMS.
//
// The same algorithm as kernels/decode_numba.py, operation for operation, so that both give the same bits:
// the build must not contract a*b + c into one rounding (-ffp-contract=off).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "aicl_decode.h"

namespace aicl {

// All settings and all memory of decoding. One thread at a time.
class Plan {
 public:
  // Throws std::bad_alloc. `settings` must have passed check().
  explicit Plan(const aicl_decode_settings& settings);

  // Empty if the settings can be used, else what is wrong. The text is static.
  static const char* check(const aicl_decode_settings& settings) noexcept;

  // Decode one video. After AICL_DECODE_OK its detections are at hand until the next call.
  template <class Scalar>
  aicl_decode_status run(const Scalar* scores, const Scalar* video_scores, std::int64_t length,
                         std::int64_t width, std::int64_t num_segments) noexcept;

  std::int32_t count() const noexcept { return count_; }
  std::int64_t capacity() const noexcept;
  // Whether the plan is as large as `settings` ask for.
  bool fits(const aicl_decode_settings& settings) const noexcept {
    return settings_.max_segments >= settings.max_segments && settings_.max_classes >= settings.max_classes;
  }
  const char* error() const noexcept { return error_; }
  void set_error(const char* text) noexcept;

  // Copy the best `n` detections out.
  template <class Label>
  void write(std::int32_t n, Label* labels, double* values, double* segments) const noexcept {
    for (std::int32_t i = 0; i < n; ++i) {
      const std::int32_t j = ranked_[i].box;
      labels[i] = static_cast<Label>(label_[j]);
      values[i] = score_[j];
      segments[2 * i] = start_[j];
      segments[2 * i + 1] = end_[j];
    }
  }

 private:
  // A box with the leading bits of its score, for sorting.
  struct Ranked {
    std::uint32_t key;
    std::int32_t box;
  };
  struct Entry {
    double score;
    std::int32_t box;
  };

  template <class Scalar>
  void load_curve(const Scalar* scores, std::int64_t length, std::int64_t width, std::int64_t column) noexcept;
  bool find_runs(std::int32_t layer, std::int64_t length) noexcept;
  void score_runs(std::int32_t layer, std::int32_t label, std::int64_t length, double bonus,
                  double seconds) noexcept;
  double sum_before(std::int32_t point) const noexcept;
  void sort(Ranked* items, std::int32_t n) noexcept;
  const std::int32_t* next_ending(std::int32_t layer, double begin) const noexcept;
  std::int32_t alive(std::int32_t box) noexcept;
  void greedy(std::int32_t low, std::int32_t high) noexcept;
  void gaussian(std::int32_t low, std::int32_t high) noexcept;
  aicl_decode_status fail(aicl_decode_status status, const char* format, long long came,
                          long long expected) noexcept;

  aicl_decode_settings settings_;
  std::vector<double> thresholds_;
  std::int32_t max_proposals_;
  std::int32_t count_ = 0;
  std::int64_t length_ = 0;
  double segments_per_second_ = 0.0;
  char error_[256] = {};

  // By grid step r within a segment: r/upscale, and the sum of the r steps before it, in slopes.
  std::vector<double> weight_, triangle_;
  // By segment of the curve at hand; prefix is the sum of all grid points before the segment.
  std::unique_ptr<double[]> value_, slope_, prefix_;
  std::unique_ptr<std::int32_t[]> level_, change_;
  // By localised class and segment: how many segments before it cross a threshold. By localised class, such
  // segment and threshold: the next run to end.
  std::unique_ptr<std::int32_t[]> rank_, next_;
  // By threshold: where its next run goes.
  std::vector<std::int32_t> cursor_;
  // By layer (a localised class at a threshold): where its proposals begin, and their extreme lengths.
  std::unique_ptr<std::int32_t[]> layer_;
  std::unique_ptr<double[]> shortest_, longest_;
  // By proposal. Memory that is never touched costs nothing, so these are as long as they can need to be.
  std::unique_ptr<std::int32_t[]> first_, stop_, label_, following_;
  std::unique_ptr<double[]> start_, end_, score_;
  std::unique_ptr<Ranked[]> ranked_, scratch_;
  std::unique_ptr<std::uint8_t[]> keep_;
  std::unique_ptr<Entry[]> heap_;
};

}  // namespace aicl
