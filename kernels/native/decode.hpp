// Fused scores to detections: runs above thresholds, outer-inner contrast, and NMS.
//
// Scores and times are computed as in kernels/decode_numba.py, operation for operation, so that both give the
// same bits: the build must not contract a*b + c into one rounding (-ffp-contract=off).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "aicl_decode.h"

namespace aicl {

constexpr std::int64_t kMostSegments = std::int64_t{1} << 40;
constexpr std::int32_t kMostUpscale = 10000;
constexpr std::int64_t kMostPoints = INT32_MAX - 1;

// Division of whole numbers from 0 to 2^31 - 1 by a fixed one, by a multiplication (Granlund and Montgomery 1994).
class Divisor {
 public:
  explicit Divisor(std::int32_t divisor) noexcept {
    while (shift_ < 62 && (std::int64_t{1} << (shift_ - 31)) < divisor) ++shift_;
    const std::uint64_t by = static_cast<std::uint64_t>(divisor);
    factor_ = ((std::uint64_t{1} << shift_) + by - 1) / by;
  }
  std::int64_t divide(std::int64_t value) const noexcept {
    return static_cast<std::int64_t>((static_cast<std::uint64_t>(value) * factor_) >> shift_);
  }

 private:
  int shift_ = 31;
  std::uint64_t factor_;
};

// All settings and all memory of decoding. One thread at a time.
class Plan {
 public:
  // Throws std::bad_alloc. `settings` must have passed check().
  explicit Plan(const aicl_decode_settings& settings);

  // Empty if the settings can be used, else what is wrong. The text is static.
  static const char* check(const aicl_decode_settings& settings) noexcept;

  // What turns segments into seconds from now on. Both must be as check() wants them.
  void set_times(double fps, std::int32_t frames_per_segment) noexcept {
    settings_.fps = fps;
    settings_.frames_per_segment = frames_per_segment;
  }

  // Decode one video. After AICL_DECODE_OK its detections are at hand until the next call.
  template <class Scalar>
  aicl_decode_status run(const Scalar* scores, const Scalar* video_scores, std::int64_t length,
                         std::int64_t width, std::int64_t num_segments) noexcept;

  std::int32_t count() const noexcept { return count_; }
  std::int64_t capacity() const noexcept;
  // Whether the plan is for at least so many.
  bool fits(std::int64_t segments, std::int64_t classes) const noexcept {
    return settings_.max_segments >= segments && settings_.max_classes >= classes;
  }
  const char* error() const noexcept { return error_; }
  void set_error(const char* text) noexcept;

  // Whether all detections are of one class.
  bool one_class() const noexcept { return one_class_; }
  // The class of detection `i`, best first.
  std::int32_t label(std::int32_t i) const noexcept { return box_[order_[i]].label; }
  // Copy the scores and times of the best `n` out.
  void write(std::int32_t n, double* values, double* segments) const noexcept {
    for (std::int32_t i = 0; i < n; ++i) {
      const std::int32_t j = order_[i];
      values[i] = score_[j];
      segments[2 * i] = box_[j].start;
      segments[2 * i + 1] = box_[j].end;
    }
  }

 private:
  // r grid steps into a segment: r/upscale, r, and the sum of the r steps before it, in slopes.
  struct Step {
    double weight, count, slopes;
  };
  // Between segments t and t + 1 the curve crosses threshold `layer`; `falls` is 1 if downwards, else 0.
  struct Crossing {
    std::int32_t t, layer, falls;
  };
  // A run of grid points from ends[0] to before ends[1]; sums are of all the points before each.
  //
  // Runs of a class are numbered as they begin. So those within a run, at higher thresholds, follow it, up to
  // `after`, and the one that holds it at the next lower threshold, `parent`, comes before it.
  struct alignas(64) Box {
    double sums[2];
    // In seconds.
    double start, end;
    std::int32_t ends[2];
    std::int32_t parent, after, layer, label;
  };
  // Boxes [begin, end) are those of one class.
  struct Tree {
    std::int32_t begin, end;
  };

  std::size_t lay_out(unsigned char* memory) noexcept;
  // Of one class whose runs there is room for: each begins with one at most, and ends with one.
  std::int64_t most_crossings() const noexcept { return 2 * std::int64_t{max_proposals_}; }
  template <class Scalar>
  Scalar* curves() noexcept;
  template <class Scalar>
  bool find_runs(const Scalar* curve, Tree& tree) noexcept;
  void join_runs(Tree& tree, std::int32_t gap, std::int32_t shortest) noexcept;
  void score_runs(const Tree& tree, std::int32_t label, double bonus) noexcept;
  void add_density(const Tree& tree) noexcept;
  bool precedes(std::int32_t box, std::int32_t other) const noexcept;
  void sort(std::int32_t* boxes, std::int32_t n) noexcept;
  static double overlap(const Box& x, const Box& y, double added) noexcept;
  template <class Before, class Visit>
  void visit_near(std::int32_t box, const Tree* low, const Tree* high, Before before, Visit visit) const noexcept;
  void greedy(const Tree* low, const Tree* high) noexcept;
  void gaussian(const Tree* low, const Tree* high) noexcept;
  aicl_decode_status fail(aicl_decode_status status, const char* format, long long came,
                          long long expected) noexcept;

  aicl_decode_settings settings_;
  Divisor upscale_;
  std::vector<double> thresholds_;
  // With infinite ones up to a round number; for float32 scores, the smallest float32 not below each.
  std::vector<double> padded_thresholds_;
  std::vector<float> float_thresholds_;
  std::int32_t max_proposals_;
  std::int32_t count_ = 0;
  bool one_class_ = false;
  std::int32_t length_ = 0;
  double seconds_ = 0.0;
  // No score is greater or less, before it decays or after.
  double greatest_ = 0.0, least_ = 0.0;
  char error_[256] = {};

  // By grid step within a segment, the next one's first too.
  std::vector<Step> step_;
  // Everything below lies in here.
  std::unique_ptr<unsigned char[]> memory_;
  // By localised class: its column, and its boxes. Then its curve, by segment, in either type.
  std::int32_t* column_;
  Tree* tree_;
  float* float_curves_;
  double* double_curves_;
  // By segment of the curve at hand; prefix is the sum of all grid points before the segment.
  double *value_, *slope_, *prefix_;
  std::int32_t* level_;
  Crossing* crossing_;
  // By threshold, from the second on: the last run that began.
  std::int32_t* open_;
  // By proposal. Memory that is never touched costs nothing, so these are as long as they can need to be.
  Box* box_;
  double* score_;
  std::uint8_t* gone_;
  std::int32_t *order_, *scratch_, *range_, *place_, *met_, *within_;
  double *overlap_, *live_, *peak_;
};

}  // namespace aicl
