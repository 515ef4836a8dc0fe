#include "decode.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <type_traits>

// Versions of a loop over segments with wider vectors; the loader takes the widest that the processor has. The
// arithmetic is the same, in the same order, so which one runs cannot change a result. Sanitizers start too late
// for the loader: gcc names those that are on by macros, clang (and gcc from 14 on) by features.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_HWADDRESS__) || defined(__SANITIZE_THREAD__)
#define AICL_SANITIZED
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(hwaddress_sanitizer) || __has_feature(thread_sanitizer) || \
    __has_feature(memory_sanitizer) || __has_feature(undefined_behavior_sanitizer)
#define AICL_SANITIZED
#endif
#endif
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__OPTIMIZE__) && !defined(AICL_SANITIZED)
#if !defined(__clang__) && __GNUC__ >= 12
#define AICL_WIDE_VECTORS __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#endif
#if (defined(__clang__) && __clang_major__ >= 14) || (!defined(__clang__) && __GNUC__ >= 7)
#define AICL_WIDE_COMPARISONS __attribute__((target_clones("avx2", "default")))
#endif
#endif
// For loops that compare and count: comparing the widest vectors gives bits, and to make numbers of these takes
// longer than to compare twice as often.
#if !defined(AICL_WIDE_COMPARISONS)
#define AICL_WIDE_COMPARISONS
#endif
#if !defined(AICL_WIDE_VECTORS)
#define AICL_WIDE_VECTORS AICL_WIDE_COMPARISONS
#endif

// For what a loop seldom needs: kept out of it, it leaves the loop more registers.
#if defined(__GNUC__) || defined(__clang__)
#define AICL_SELDOM __attribute__((noinline, cold))
#else
#define AICL_SELDOM
#endif

namespace aicl {
namespace {

// A line of the cache, in bytes.
constexpr std::size_t kLine = 64;
// Rows of scores that are looked at together: whole lines of the cache, whatever the width.
constexpr std::int64_t kRows = 16;
// As many as there are bits in a word.
constexpr int kSegmentsAtOnce = 64;
// Parts of a curve that are summed side by side.
constexpr int kParts = 4;
// More would not fit into the vector registers.
constexpr int kThresholdsAtOnce = 5;

// Proposals that a density is the mean of.
constexpr std::int32_t kNearest = 10;
// Of a grid point: times that are equal but for rounding are equal.
constexpr double kSlack = 1e-6;

// Far above any score, and low enough that no sum over a grid of 2^31 points overflows.
constexpr double kLargest = 1e38;

bool within(double value, double low, double high) { return value >= low && value <= high; }

// Boxes whose greatest score is kept at hand.
constexpr std::int32_t kBlock = 8;

// The greatest of kBlock numbers, in pairs: one comparison after another would wait for each other.
inline double greatest_of(const double* x) noexcept {
  const auto greater = [](double a, double b) noexcept { return a > b ? a : b; };
  return greater(greater(greater(x[0], x[1]), greater(x[2], x[3])), greater(greater(x[4], x[5]), greater(x[6], x[7])));
}

}  // namespace

const char* Plan::check(const aicl_decode_settings& s) noexcept {
  if (s.num_thresholds < 1 || s.thresholds == nullptr) return "thresholds: expected at least one.";
  for (std::int32_t k = 0; k < s.num_thresholds; ++k) {
    if (!std::isfinite(s.thresholds[k])) return "thresholds: expected finite numbers.";
  }
  if (std::isnan(s.class_threshold)) return "class_threshold: expected a number.";
  if (!(s.outer_ratio >= 0)) return "outer_ratio: expected at least 0.";
  if (!within(s.video_score_weight, -1e100, 1e100)) return "video_score_weight: expected a finite number.";
  if (!within(s.merge_gap, 0, 1e30)) return "merge_gap: expected 0 to 1e30.";
  if (!within(s.min_seconds, 0, 1e30)) return "min_seconds: expected 0 to 1e30.";
  if (!within(s.density_weight, 0, 1e100)) return "density_weight: expected 0 to 1e100.";
  if (!within(s.nms_tiou, 0, 1)) return "nms_tiou: expected between 0 and 1.";
  if (!(s.nms_sigma > 0)) return "nms_sigma: expected a positive number.";
  if (!within(s.nms_added_seconds, 0, 1e30)) return "nms_added_seconds: expected 0 to 1e30.";
  if (std::isnan(s.min_score)) return "min_score: expected a number.";
  if (!within(s.fps, 1e-30, 1e30)) return "fps: expected 1e-30 to 1e30.";
  if (s.frames_per_segment < 1) return "frames_per_segment: expected at least 1.";
  if (s.upscale < 1 || s.upscale > kMostUpscale) return "upscale: expected 1 to 10000.";
  if (s.nms < AICL_DECODE_DECAY_ONCE || s.nms > AICL_DECODE_GAUSSIAN) return "nms: there is no such mode.";
  if (s.max_detections < 0) return "max_detections: expected at least 0.";
  if (s.max_segments < 1) return "max_segments: expected at least 1.";
  if (s.max_classes < 0) return "max_classes: expected at least 0.";
  if (s.max_proposals < 0) return "max_proposals: expected at least 0.";
  if (std::int64_t{s.max_segments} * s.upscale > kMostPoints) {
    return "max_segments * upscale: expected fewer than 2^31 grid points.";
  }
  if (std::int64_t{s.max_classes} * s.num_thresholds > kMostPoints) {
    return "max_classes * num_thresholds: expected fewer than 2^31.";
  }
  return nullptr;
}

Plan::Plan(const aicl_decode_settings& settings)
    : settings_(settings),
      upscale_(settings.upscale),
      thresholds_(settings.thresholds, settings.thresholds + settings.num_thresholds) {
  std::sort(thresholds_.begin(), thresholds_.end());
  thresholds_.erase(std::unique(thresholds_.begin(), thresholds_.end()), thresholds_.end());
  settings_.thresholds = nullptr;
  const std::int64_t depth = static_cast<std::int64_t>(thresholds_.size());
  const std::int64_t layers = depth * settings.max_classes;
  // A segment crosses a threshold at most once, and a run takes two crossings.
  const std::int64_t runs = settings.max_segments / 2 + 1;
  const std::int64_t limit = settings.max_proposals > 0 ? std::int64_t{settings.max_proposals}
                                                        : std::numeric_limits<std::int32_t>::max() - 1;
  max_proposals_ = static_cast<std::int32_t>(layers > limit / runs ? limit : std::min(limit, layers * runs));

  const std::int32_t upscale = settings.upscale;
  for (std::int32_t r = 0; r <= upscale; ++r) {
    // What lies a whole segment away, or more, is beyond every threshold that the segment crosses.
    const double weight = r < upscale ? static_cast<double>(r) / upscale : 2.0;
    step_.push_back({weight, static_cast<double>(r), r * (r - 1.0) / (2.0 * upscale)});
  }
  padded_thresholds_ = thresholds_;
  while (padded_thresholds_.size() % kThresholdsAtOnce != 0) {
    padded_thresholds_.push_back(std::numeric_limits<double>::infinity());
  }
  for (const double threshold : padded_thresholds_) {
    float narrow = static_cast<float>(threshold);
    if (narrow < threshold) narrow = std::nextafter(narrow, std::numeric_limits<float>::infinity());
    float_thresholds_.push_back(narrow);
  }
  memory_.reset(new unsigned char[lay_out(nullptr)]);
  lay_out(memory_.get());
  // A threshold's first rise reads what stands there before it writes.
  std::fill(open_, open_ + thresholds_.size() + 1, -1);
}

// Sets the pointers and returns how many bytes they need.
std::size_t Plan::lay_out(unsigned char* memory) noexcept {
  constexpr std::size_t kPage = 4096;
  std::size_t used = (kLine - reinterpret_cast<std::uintptr_t>(memory) % kLine) % kLine;
  const auto give = [&](auto*& pointer, std::int64_t n) noexcept {
    using Item = std::remove_reference_t<decltype(*pointer)>;
    if (memory != nullptr) pointer = reinterpret_cast<Item*>(memory + used);
    // Were all to begin at the start of a page, they would push each other out of the same lines of the cache.
    used += (static_cast<std::size_t>(n) * sizeof(Item) / kPage + 1) * kPage + 9 * kLine;
  };
  const std::int64_t length = settings_.max_segments, classes = settings_.max_classes;
  const std::int64_t depth = static_cast<std::int64_t>(thresholds_.size());
  give(column_, classes + 1);
  give(tree_, classes);
  give(float_curves_, length * classes);
  give(double_curves_, length * classes);
  for (double** by_segment : {&value_, &slope_, &prefix_}) give(*by_segment, length);
  give(level_, length + kSegmentsAtOnce + 1);
  give(crossing_, std::min(length * depth, most_crossings() + kSegmentsAtOnce * depth));
  give(open_, depth + 1);
  // One more than there are: some is written before it is known whether it is wanted.
  const std::int64_t n = std::int64_t{max_proposals_} + 1;
  give(box_, n);
  for (std::int32_t** ints : {&order_, &scratch_, &range_, &met_}) give(*ints, n);
  give(place_, 2 * n);
  for (double** doubles : {&score_, &overlap_}) give(*doubles, n);
  give(gone_, n);
  give(within_, settings_.density_weight > 0.0 ? kNearest * n : 0);
  const bool reranks = settings_.nms == AICL_DECODE_GAUSSIAN;
  give(live_, reranks ? n + kBlock : 0);
  give(peak_, reranks ? n / kBlock + kBlock + 1 : 0);
  return used + kLine;
}

std::int64_t Plan::capacity() const noexcept {
  return settings_.max_detections > 0 ? std::min(settings_.max_detections, max_proposals_) : max_proposals_;
}

void Plan::set_error(const char* text) noexcept { std::snprintf(error_, sizeof error_, "%s", text); }

aicl_decode_status Plan::fail(aicl_decode_status status, const char* format, long long came,
                              long long expected) noexcept {
  std::snprintf(error_, sizeof error_, format, came, expected);
  return status;
}

// ---- curves ------------------------------------------------------------------------------------------

namespace {

// The type's bits as an integer, without the sign.
inline std::uint32_t magnitude(float value) noexcept {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits & 0x7fffffffu;
}
inline std::uint64_t magnitude(double value) noexcept {
  std::uint64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits & 0x7fffffffffffffffu;
}

// Whether all are finite and within bounds. A greater magnitude carries into the sign bit. Looked at to the
// end: a loop that may leave early is no faster.
template <class Scalar>
inline bool usable(const Scalar* values, std::int64_t n) noexcept {
  using Bits = decltype(magnitude(Scalar{}));
  const Bits sign = ~(~Bits{0} >> 1);
  const Bits room = sign - 1 - magnitude(static_cast<Scalar>(kLargest));
  Bits all = 0;
  for (std::int64_t i = 0; i < n; ++i) all |= magnitude(values[i]) + room;
  return (all & sign) == 0;
}

// Copies columns of (length, width) scores into rows of `curves`; false if any score is not usable.
//
// Both are done to a few rows at a time, so that the processor looks at the next while it still copies from these.
template <class Scalar>
inline bool gather_columns(const Scalar* scores, std::int64_t length, std::int64_t width,
                           const std::int32_t* columns, std::int32_t count, Scalar* curves) noexcept {
  const auto copy = [=](std::int64_t low, std::int64_t rows) noexcept {
    for (std::int32_t p = 0; p < count; ++p) {
      const Scalar* const column = scores + low * width + columns[p];
      Scalar* const curve = curves + p * length + low;
      for (std::int64_t t = 0; t < rows; ++t) curve[t] = column[t * width];
    }
  };
  const Scalar* const end = scores + length * width;
  // From the first line of the cache that begins here: NumPy's arrays may begin within one.
  const std::int64_t before = (~reinterpret_cast<std::uintptr_t>(scores) + 1) % kLine / sizeof(Scalar);
  const Scalar* next = scores + std::min(before, length * width);
  bool good = usable(scores, next - scores);
  std::int64_t low = 0;
  for (; end - next >= kRows * width; low += kRows, next += kRows * width) {
    good &= usable(next, kRows * width);
    copy(low, kRows);
  }
  copy(low, length - low);
  return usable(next, end - next) && good;
}

AICL_WIDE_VECTORS bool gather(const float* scores, std::int64_t length, std::int64_t width,
                              const std::int32_t* columns, std::int32_t count, float* curves) noexcept {
  return gather_columns(scores, length, width, columns, count, curves);
}
AICL_WIDE_VECTORS bool gather(const double* scores, std::int64_t length, std::int64_t width,
                              const std::int32_t* columns, std::int32_t count, double* curves) noexcept {
  return gather_columns(scores, length, width, columns, count, curves);
}

// The curve in double precision, its slopes and, at first, the sum of each segment's grid points.
template <class Scalar>
inline void expand_curve(const Scalar* curve, std::int32_t length, double upscale, double* value, double* slope,
                         double* sum) noexcept {
  const double half = (upscale - 1) * 0.5;
  for (std::int32_t t = 0; t + 1 < length; ++t) {
    value[t] = static_cast<double>(curve[t]);
    slope[t] = static_cast<double>(curve[t + 1]) - static_cast<double>(curve[t]);
    sum[t] = upscale * value[t] + slope[t] * half;
  }
}

AICL_WIDE_VECTORS void expand(const float* curve, std::int32_t length, double upscale, double* value,
                              double* slope, double* sum) noexcept {
  expand_curve(curve, length, upscale, value, slope, sum);
}
AICL_WIDE_VECTORS void expand(const double* curve, std::int32_t length, double upscale, double* value,
                              double* slope, double* sum) noexcept {
  expand_curve(curve, length, upscale, value, slope, sum);
}

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
constexpr bool kLittleEndian = false;
#else
constexpr bool kLittleEndian = true;
#endif

// Turns each of `n` segments' sums into the sum of all segments before it.
//
// An addition waits for the one before it. So four parts of the curve are summed side by side, then joined.
AICL_WIDE_VECTORS void sum_up(double* sums, std::int32_t n) noexcept {
  const std::int32_t part = n / kParts;
  double total[kParts] = {};
  for (std::int32_t t = 0; t < part; ++t) {
    for (int p = 0; p < kParts; ++p) {
      const double here = sums[p * part + t];
      sums[p * part + t] = total[p];
      total[p] += here;
    }
  }
  double before = total[0];
  for (int p = 1; p < kParts; ++p) {
    for (std::int32_t t = p * part; t < (p + 1) * part; ++t) sums[t] += before;
    before += total[p];
  }
  for (std::int32_t t = kParts * part; t < n; ++t) {
    const double here = sums[t];
    sums[t] = before;
    before += here;
  }
}

// level[t] = how many of the thresholds curve[t] reaches. There are `passes` times kThresholdsAtOnce.
template <class Scalar>
inline void count_levels(const Scalar* curve, std::int32_t n, const Scalar* threshold, std::int32_t passes,
                         std::int32_t* level) noexcept {
  for (const Scalar* h = threshold; h < threshold + passes * kThresholdsAtOnce; h += kThresholdsAtOnce) {
    const Scalar h0 = h[0], h1 = h[1], h2 = h[2], h3 = h[3], h4 = h[4];
    for (std::int32_t t = 0; t < n; ++t) {
      const Scalar s = curve[t];
      const std::int32_t more =
          (s >= h0 ? 1 : 0) + (s >= h1 ? 1 : 0) + (s >= h2 ? 1 : 0) + (s >= h3 ? 1 : 0) + (s >= h4 ? 1 : 0);
      level[t] = h == threshold ? more : level[t] + more;
    }
  }
}

AICL_WIDE_COMPARISONS void levels(const float* curve, std::int32_t n, const float* threshold, std::int32_t passes,
                                  std::int32_t* level) noexcept {
  count_levels(curve, n, threshold, passes, level);
}
AICL_WIDE_COMPARISONS void levels(const double* curve, std::int32_t n, const double* threshold, std::int32_t passes,
                                  std::int32_t* level) noexcept {
  count_levels(curve, n, threshold, passes, level);
}

// Bit i: whether level[i] and level[i + 1] differ.
AICL_WIDE_VECTORS std::uint64_t changes(const std::int32_t* level) noexcept {
  std::uint8_t differs[kSegmentsAtOnce];
  for (int i = 0; i < kSegmentsAtOnce; ++i) differs[i] = level[i] != level[i + 1] ? 1 : 0;
  std::uint64_t bits = 0;
  for (int byte = 0; byte < 8; ++byte) {
    std::uint64_t eight;
    std::memcpy(&eight, differs + 8 * byte, sizeof eight);
    // Each factor moves one byte's lowest bit to its place in the product's highest byte.
    bits |= (eight * (kLittleEndian ? 0x0102040810204080u : 0x8040201008040201u) >> 56) << (8 * byte);
  }
  return bits;
}

inline int lowest_bit(std::uint64_t bits) noexcept {
#if defined(__GNUC__) || defined(__clang__)
  return __builtin_ctzll(bits);
#else
  int i = 0;
  for (; (bits & 1) == 0; bits >>= 1) ++i;
  return i;
#endif
}

}  // namespace

template <>
float* Plan::curves() noexcept {
  return float_curves_;
}
template <>
double* Plan::curves() noexcept {
  return double_curves_;
}

// ---- proposals ---------------------------------------------------------------------------------------

namespace {

// The first step r of a cell from `v` on that is beyond a threshold, where the one that was guessed is not it.
template <class Step>
AICL_SELDOM std::ptrdiff_t settle(double v, double rise, double height, bool falls, const Step* step,
                                  std::ptrdiff_t r) noexcept {
  const auto inside = [=](std::ptrdiff_t s) noexcept { return v + rise * step[s].weight >= height; };
  while (inside(r - 1) == inside(r)) r += inside(r) == falls ? 1 : -1;
  return r;
}

}  // namespace

// Runs [first, stop) of every threshold, in grid points, with the sums of the grid points before their ends;
// false if the plan has no room for them.
//
// Within a cell the grid's values never turn, even rounded, so a threshold is crossed there at most once
// and only if the levels of its two ends differ.
template <class Scalar>
bool Plan::find_runs(const Scalar* curve, Tree& tree) noexcept {
  const std::int32_t depth = static_cast<std::int32_t>(thresholds_.size());
  const std::int32_t length = length_, upscale = settings_.upscale;
  const double* const threshold = thresholds_.data();
  const Step* const step = step_.data();
  const double most = upscale + 0.5;
  double *const value = value_, *const slope = slope_, *const prefix = prefix_;
  expand(curve, length, upscale, value, slope, prefix);
  // The slope beyond the last segment is the one before it.
  value[length - 1] = static_cast<double>(curve[length - 1]);
  slope[length - 1] = length > 1 ? slope[length - 2] : 0.0;
  prefix[length - 1] = upscale * value[length - 1] + slope[length - 1] * ((upscale - 1) * 0.5);
  sum_up(prefix, length);

  std::int32_t* const level = level_;
  const std::int32_t passes = (depth + kThresholdsAtOnce - 1) / kThresholdsAtOnce;
  if constexpr (std::is_same_v<Scalar, float>) {
    levels(curve, length, float_thresholds_.data(), passes, level);
  } else {
    levels(curve, length, padded_thresholds_.data(), passes, level);
  }
  // The grid's last point stands in for the segment that does not follow.
  const double last = value[length - 1] + slope[length - 1] * step[upscale - 1].weight;
  level[length] = 0;
  for (std::int32_t k = 0; k < depth; ++k) level[length] += last >= threshold[k] ? 1 : 0;
  for (int i = 1; i <= kSegmentsAtOnce; ++i) level[length + i] = level[length];

  // What is crossed, gathered first: less to keep at hand in the loop that follows. Rises and falls mix too well
  // for a processor to guess which comes next: no branch on that, here or there.
  Crossing* stop = crossing_;
  for (std::int32_t low = 0; low < length; low += kSegmentsAtOnce) {
    if (stop - crossing_ > most_crossings()) return false;
    for (std::uint64_t bits = changes(level + low); bits != 0; bits &= bits - 1) {
      const std::int32_t t = low + lowest_bit(bits), from = level[t], to = level[t + 1];
      const std::int32_t falls = static_cast<std::int32_t>(static_cast<std::uint32_t>(to - from) >> 31);
      const std::int32_t lowest = from + ((to - from) & -falls), above = from + to - lowest;
      *stop++ = {t, lowest, falls};
      for (std::int32_t k = lowest + 1; k < above; ++k) *stop++ = {t, k, falls};
    }
  }
  // As many rises as falls, but for where the curve begins and ends.
  const std::int64_t rises = (stop - crossing_ + level[length] - level[0]) / 2;
  std::int32_t n = tree.begin;
  if (level[0] + rises > max_proposals_ - n) return false;
  Box* const boxes = box_;
  std::int32_t* const open = open_ + 1;
  for (std::int32_t k = 0; k < level[0]; ++k) {
    boxes[n] = {{0.0, 0.0}, 0.0, 0.0, {0, 0}, open[k - 1], n, k, 0};
    open[k] = n++;
  }
  for (const Crossing* c = crossing_; c < stop; ++c) {
    const std::ptrdiff_t t = c->t, k = c->layer, falls = c->falls;
    const double v = value[t], rise = slope[t], height = threshold[k];
    const auto inside = [=](std::ptrdiff_t r) noexcept { return v + rise * step[r].weight >= height; };
    // At least 1, and within a step or so of what the grid's own arithmetic decides; or NaN.
    const double guess = (height - v) * (upscale / rise) + 1.0;
    std::ptrdiff_t r = static_cast<std::ptrdiff_t>(std::min(most, guess));
    if (inside(r - 1) == inside(r)) r = settle(v, rise, height, falls == 1, step, r);
    // What a fall writes anew is the same, or right only now.
    const std::int32_t begins = static_cast<std::int32_t>(falls) - 1;
    const std::int32_t j = open[k] + ((n - open[k]) & begins);
    Box& box = boxes[j];
    box.ends[falls] = static_cast<std::int32_t>(t * upscale + r);
    box.sums[falls] = prefix[t] + step[r].count * v + rise * step[r].slopes;
    box.parent = open[k - 1];
    box.layer = static_cast<std::int32_t>(k);
    open[k] = j;
    n -= begins;
    box.after = n;
  }
  for (std::int32_t k = 0; k < level[length]; ++k) {
    Box& box = boxes[open[k]];
    box.ends[1] = length * upscale;
    box.sums[1] = prefix[length - 1] + upscale * value[length - 1] + slope[length - 1] * step[upscale].slopes;
    box.after = n;
  }
  tree.end = n;
  return true;
}

// Makes one of runs of a threshold that are at most `gap` grid points apart, then drops those below `shortest`.
//
// Two runs that become one lie in runs of lower thresholds that are no further apart, and what lies in a run is no
// longer than it. So runs still lie in each other as find_runs says.
void Plan::join_runs(Tree& tree, std::int32_t gap, std::int32_t shortest) noexcept {
  Box* const boxes = box_;
  std::int32_t* const open = open_ + 1;
  std::fill(open, open + thresholds_.size(), -1);
  std::int32_t n = tree.begin;
  for (std::int32_t j = tree.begin; j < tree.end; ++j) {
    const Box box = boxes[j];
    const std::int32_t last = open[box.layer];
    if (last >= 0 && box.ends[0] - boxes[last].ends[1] <= gap) {
      boxes[last].ends[1] = box.ends[1];
      boxes[last].sums[1] = box.sums[1];
    } else {
      open[box.layer] = n;
      boxes[n++] = box;
    }
  }
  tree.end = n;
  n = tree.begin;
  for (std::int32_t j = tree.begin; j < tree.end; ++j) {
    Box box = boxes[j];
    if (box.ends[1] - box.ends[0] < shortest) continue;
    box.parent = open[box.layer - 1];
    box.after = n + 1;
    open[box.layer] = n;
    boxes[n++] = box;
  }
  tree.end = n;
  for (std::int32_t j = n - 1; j > tree.begin; --j) {
    if (boxes[j].parent >= 0) boxes[boxes[j].parent].after = std::max(boxes[boxes[j].parent].after, boxes[j].after);
  }
}

// Mean inside minus mean outside, and times.
void Plan::score_runs(const Tree& tree, std::int32_t label, double bonus) noexcept {
  const std::int64_t upscale = settings_.upscale;
  const double last = static_cast<double>(length_) * static_cast<double>(upscale) - 1.0;
  const double ratio = settings_.outer_ratio, seconds = seconds_;
  const double *const value = value_, *const slope = slope_, *const prefix = prefix_;
  const Step* const step = step_.data();
  const Divisor divisor = upscale_;
  // By the segment that the point before lies in.
  const auto sum_before = [=](std::int64_t point, std::int64_t before) noexcept {
    const std::int64_t t = divisor.divide(before);
    const Step& steps = step[point - t * upscale];
    return prefix[t] + steps.count * value[t] + slope[t] * steps.slopes;
  };
  double greatest = greatest_, least = least_;
  for (std::int32_t j = tree.begin; j < tree.end; ++j) {
    Box& box = box_[j];
    box.label = label;
    const std::int64_t begin = box.ends[0], end = box.ends[1];
    // Whole numbers below 2^53 are added without rounding.
    const double a = static_cast<double>(begin), count = static_cast<double>(end - begin), b = a + count;
    const double reach = ratio * count;
    const std::int64_t low = static_cast<std::int64_t>(std::max(0.0, a - reach));
    const std::int64_t high = static_cast<std::int64_t>(std::min(last, b - 1.0 + reach));
    const std::int64_t outer = (begin - low) + (high + 1 - end);
    double contrast = (box.sums[1] - box.sums[0]) / count;
    if (outer > 0) {
      const double left = box.sums[0] - sum_before(low, std::max<std::int64_t>(low - 1, 0));
      const double right = sum_before(high + 1, high) - box.sums[1];
      contrast -= (left + right) / static_cast<double>(outer);
    }
    const double score = contrast + bonus;
    score_[j] = score;
    box.start = a * seconds;
    box.end = b * seconds;
    greatest = std::max(greatest, score);
    least = std::min(least, score);
  }
  greatest_ = greatest;
  least_ = least;
}

namespace {

// Inserts `length` into the kNearest `longest`, in descending order; false if it is not one of them.
inline bool offer(std::int32_t* longest, std::int32_t length) noexcept {
  int i = kNearest - 1;
  if (length <= longest[i]) return false;
  for (; i > 0 && longest[i - 1] < length; --i) longest[i] = longest[i - 1];
  longest[i] = length;
  return true;
}

}  // namespace

// Adds density_weight times the mean tIoU with the nearest proposals of the class.
//
// Two of them are apart, or one holds the other, and their tIoU is the ratio of their lengths. So the nearest are
// among those that hold a proposal, shortest first, and the longest within it.
void Plan::add_density(const Tree& tree) noexcept {
  const std::int32_t nearest = std::min(kNearest, tree.end - tree.begin - 1);
  if (nearest < 1) return;
  const Box* const boxes = box_;
  const auto length_of = [=](std::int32_t j) noexcept { return boxes[j].ends[1] - boxes[j].ends[0]; };
  std::int32_t* const within = within_;
  const auto longest = [=](std::int32_t j) noexcept { return within + std::int64_t{kNearest} * (j - tree.begin); };
  std::fill(within, longest(tree.end), 0);
  for (std::int32_t j = tree.end - 1; j >= tree.begin; --j) {
    if (boxes[j].parent < 0 || !offer(longest(boxes[j].parent), length_of(j))) continue;
    for (int i = 0; i < kNearest && offer(longest(boxes[j].parent), longest(j)[i]); ++i) {
    }
  }
  for (std::int32_t j = tree.begin; j < tree.end; ++j) {
    const std::int32_t* inner = longest(j);
    std::int32_t outer = boxes[j].parent;
    const double length = length_of(j);
    double total = 0.0;
    for (std::int32_t i = 0; i < nearest; ++i) {
      const double inwards = *inner / length, outwards = outer >= 0 ? length / length_of(outer) : 0.0;
      if (inwards >= outwards) {
        total += inwards;
        ++inner;
      } else {
        total += outwards;
        outer = boxes[outer].parent;
      }
    }
    score_[j] += settings_.density_weight * (total / nearest);
    greatest_ = std::max(greatest_, score_[j]);
  }
}

// ---- non-maximum suppression -------------------------------------------------------------------------

// By descending score; what is equal by class, threshold and start.
inline bool Plan::precedes(std::int32_t box, std::int32_t other) const noexcept {
  if (score_[box] > score_[other]) return true;
  if (score_[box] < score_[other]) return false;
  const Box &x = box_[box], &y = box_[other];
  if (x.label != y.label) return x.label < y.label;
  return x.layer != y.layer ? x.layer < y.layer : box < other;
}

// Dealt into twice as many equal ranges of score as there are boxes, then insertion.
void Plan::sort(std::int32_t* boxes, std::int32_t n) noexcept {
  const double* const score = score_;
  const std::int32_t* dealt = boxes;
  if (n > 16) {
    const std::int32_t ranges = 2 * std::min(n, INT32_MAX / 2);
    const double greatest = greatest_;
    double scale = (ranges - 1) / (greatest - least_);
    if (!(scale <= kLargest)) scale = 0.0;
    std::int32_t *const place = place_, *const range = range_, *const scratch = scratch_;
    std::fill(place, place + ranges, 0);
    for (std::int32_t i = 0; i < n; ++i) {
      range[i] = static_cast<std::int32_t>((greatest - score[boxes[i]]) * scale);
      ++place[range[i]];
    }
    std::int32_t sum = 0;
    for (std::int32_t i = 0; i < ranges; i += 2) {
      const std::int32_t here = place[i], both = here + place[i + 1];
      place[i] = sum;
      place[i + 1] = sum + here;
      sum += both;
    }
    for (std::int32_t i = 0; i < n; ++i) scratch[place[range[i]]++] = boxes[i];
    dealt = scratch;
  }
  // Scores that are nearly all in a few ranges would make insertion quadratic.
  std::int64_t moves = 0;
  double least = std::numeric_limits<double>::infinity();
  for (std::int32_t i = 0; i < n; ++i) {
    const std::int32_t box = dealt[i];
    std::int32_t j = i;
    if (score[box] < least) {
      least = score[box];
    } else {
      for (; j > 0 && precedes(box, boxes[j - 1]); --j) boxes[j] = boxes[j - 1];
      moves += i - j;
      if (moves > 16 * std::int64_t{n} + 512) {
        boxes[j] = box;
        std::copy(dealt + i + 1, dealt + n, boxes + i + 1);
        std::sort(boxes, boxes + n, [this](std::int32_t x, std::int32_t y) { return precedes(x, y); });
        return;
      }
    }
    boxes[j] = box;
  }
}

// tIoU with the added seconds on every length and on the intersection.
inline double Plan::overlap(const Box& x, const Box& y, double added) noexcept {
  const double shared =
      std::max(0.0, std::min(x.end, y.end) - std::max(x.start, y.start) + added);
  const double all = (x.end - x.start + added) + (y.end - y.start + added) - shared;
  return shared / all;
}

// Visits the boxes of the trees low..high that overlap `box`, itself too. `before(j)` is the last of those to visit
// that come before j, or anything below 0.
template <class Before, class Visit>
inline void Plan::visit_near(std::int32_t box, const Tree* low, const Tree* high, Before before,
                             Visit visit) const noexcept {
  const Box* const boxes = box_;
  const double start = boxes[box].start, end = boxes[box].end, added = settings_.nms_added_seconds;
  const auto begins_in_time = [=](const Box& other) noexcept { return end - other.start + added > 0.0; };
  for (const Tree* tree = low; tree < high; ++tree) {
    const Box *first = boxes + tree->begin, *last = boxes + tree->end;
    if (tree->begin <= box && box < tree->end) {
      // Mostly none or a few after those within it.
      first = boxes + boxes[box].after;
      for (std::ptrdiff_t jump = 1; first < last; jump *= 2) {
        const Box* const next = first + std::min(jump, last - first);
        if (!begins_in_time(next[-1])) {
          last = next - 1;
          break;
        }
        first = next;
      }
    }
    const Box* const beyond = std::partition_point(first, last, begins_in_time);
    // Back from the last that begins in time. One that ends too early tells the same of those within it and
    // of all that come before it under the same parent.
    for (std::int32_t j = before(static_cast<std::int32_t>(beyond - boxes)); j >= tree->begin;) {
      if (boxes[j].end - start + added > 0.0) {
        visit(j);
        j = before(j);
      } else {
        j = before(boxes[j].parent + 1);
      }
    }
  }
}

// decay_once and hard over the trees low..high.
void Plan::greedy(const Tree* low, const Tree* high) noexcept {
  const double tiou = settings_.nms_tiou, sigma = settings_.nms_sigma, added = settings_.nms_added_seconds;
  // tIoU is at most the ratio of the lengths, rounding aside.
  const double ratio = tiou * (1.0 - 1e-9);
  const Box* const boxes = box_;
  const auto length_of = [=](std::int32_t j) noexcept { return boxes[j].end - boxes[j].start + added; };
  std::uint8_t* const gone = gone_;
  std::int32_t* const met = met_;
  double* const overlaps = overlap_;
  const std::int32_t begin = low->begin, stop = (high - 1)->end, n = stop - begin;
  std::int32_t* const order = order_ + begin;
  for (std::int32_t i = 0; i < n; ++i) order[i] = begin + i;
  sort(order, n);
  std::int32_t kept = count_, left = 0;
  for (std::int32_t i = 0; i < n; ++i) {
    const std::int32_t best = order[i];
    if (gone[best]) continue;
    gone[best] = 1;
    order_[kept++] = best;
    const Box box = boxes[best];
    const double length = length_of(best);
    const auto meet = [&](std::int32_t j) noexcept {
      const double overlapping = overlap(box, boxes[j], added);
      const bool leaves = overlapping >= tiou && !gone[j];
      met[left] = j;
      overlaps[left] = overlapping;
      left += leaves ? 1 : 0;
      gone[j] |= leaves ? 1 : 0;
    };
    if (!(tiou > 0.0)) {
      // Every box reaches a tIoU of 0.
      for (std::int32_t j = begin; j < stop; ++j) meet(j);
    } else if (high - low == 1 && ratio * length > added) {
      // Longer than what two boxes side by side can share: only those around it and within it matter, and
      // these get longer outwards and shorter inwards.
      for (std::int32_t j = box.parent; j >= 0; j = boxes[j].parent) {
        if (length < ratio * length_of(j)) break;
        meet(j);
      }
      for (std::int32_t j = best + 1; j < box.after;) {
        if (length_of(j) < ratio * length) {
          j = boxes[j].after;
        } else {
          meet(j++);
        }
      }
    } else {
      visit_near(best, low, high, [](std::int32_t j) noexcept { return j - 1; }, meet);
    }
  }
  if (settings_.nms != AICL_DECODE_HARD) {
    // All stay, and what left has decayed.
    double* const score = score_;
    for (std::int32_t i = 0; i < left; ++i) {
      score[met[i]] *= std::exp(-overlaps[i] * overlaps[i] / sigma);
      order_[kept++] = met[i];
    }
  }
  count_ = kept;
}

// Soft-NMS of Bodla et al. 2017 over the trees low..high, ranked anew after each box.
//
// The greatest score of every few boxes is kept at hand: scores only change near the box that was taken. Where many
// overlap, most soon fall below min_score or to 0, and change no more: these are passed over.
void Plan::gaussian(const Tree* low, const Tree* high) noexcept {
  const double sigma = settings_.nms_sigma, added = settings_.nms_added_seconds, floor = settings_.min_score;
  const double nothing = -std::numeric_limits<double>::infinity();
  const std::int32_t begin = low->begin, n = (high - 1)->end - begin;
  const auto rounded = [](std::int32_t count) noexcept { return (count + kBlock - 1) / kBlock * kBlock; };
  const std::int32_t peaks = rounded(n) / kBlock;
  double *const score = score_ + begin, *const live = live_, *const peak = peak_;
  for (std::int32_t j = 0; j < n; ++j) live[j] = score[j] < floor ? nothing : score[j];
  // Back from each box, itself if it can still change.
  std::int32_t* const link = range_ + begin;
  for (std::int32_t j = 0; j < n; ++j) link[j] = live[j] > 0.0 ? j : j - 1;
  const auto changing_before = [=](std::int32_t box) noexcept {
    std::int32_t j = box - begin - 1;
    while (j >= 0 && link[j] != j) {
      const std::int32_t next = link[j];
      if (next >= 0) link[j] = link[next];
      j = next;
    }
    return begin + j;
  };
  std::int32_t left = settings_.max_detections > 0 ? std::min(settings_.max_detections, n) : n;
  std::fill(live + n, live + rounded(n), nothing);
  std::fill(peak, peak + rounded(peaks), nothing);
  const auto refresh = [=](std::int32_t block) noexcept { peak[block] = greatest_of(live + block * kBlock); };
  for (std::int32_t block = 0; block < peaks; ++block) refresh(block);
  for (; left > 0; --left) {
    double greatest = nothing;
    for (std::int32_t block = 0; block < peaks; block += kBlock) {
      greatest = std::max(greatest, greatest_of(peak + block));
    }
    if (!(greatest > 0.0)) break;
    std::int32_t best = -1;
    for (std::int32_t block = 0; block < peaks; ++block) {
      if (peak[block] != greatest) continue;
      for (std::int32_t j = block * kBlock; j < (block + 1) * kBlock; ++j) {
        if (live[j] == greatest && (best < 0 || precedes(begin + j, begin + best))) best = j;
      }
    }
    order_[count_++] = begin + best;
    live[best] = nothing;
    link[best] = best - 1;
    refresh(best / kBlock);
    const Box box = box_[begin + best];
    std::int32_t met = 0;
    visit_near(begin + best, low, high, changing_before, [&](std::int32_t j) noexcept {
      met_[met] = j - begin;
      overlap_[met++] = overlap(box, box_[j], added);
    });
    for (std::int32_t i = 0; i < met; ++i) {
      const std::int32_t j = met_[i];
      score[j] *= std::exp(-overlap_[i] * overlap_[i] / sigma);
      live[j] = score[j] < floor ? nothing : score[j];
      if (!(live[j] > 0.0)) link[j] = j - 1;
      if (i + 1 == met || met_[i + 1] / kBlock != j / kBlock) refresh(j / kBlock);
    }
  }
  if (left == 0) return;
  // A score below 0 would rise by decaying, so those that are left stay as they are.
  std::int32_t rest = 0;
  for (std::int32_t j = 0; j < n; ++j) {
    if (live[j] > nothing) order_[count_ + rest++] = begin + j;
  }
  sort(order_ + count_, rest);
  count_ += std::min(rest, left);
}

// ---- one video ---------------------------------------------------------------------------------------

template <class Scalar>
aicl_decode_status Plan::run(const Scalar* scores, const Scalar* video_scores, std::int64_t length,
                             std::int64_t width, std::int64_t num_segments) noexcept {
  count_ = 0;
  error_[0] = '\0';
  if (length < 1) return fail(AICL_DECODE_BAD_ARGUMENT, "num_rows is %lld; expected at least %lld.", length, 1);
  if (width < 0) return fail(AICL_DECODE_BAD_ARGUMENT, "num_classes is %lld; expected at least %lld.", width, 0);
  if (num_segments < 1 || num_segments > kMostSegments) {
    return fail(AICL_DECODE_BAD_ARGUMENT, "num_segments is %lld; expected 1 to %lld.", num_segments, kMostSegments);
  }
  if (length > settings_.max_segments) {
    return fail(AICL_DECODE_TOO_LARGE, "num_rows is %lld; the plan's max_segments is %lld.", length,
                settings_.max_segments);
  }
  if (width > settings_.max_classes) {
    return fail(AICL_DECODE_TOO_LARGE, "num_classes is %lld; the plan's max_classes is %lld.", width,
                settings_.max_classes);
  }
  if (width == 0) return AICL_DECODE_OK;
  std::int32_t localised = 0;
  for (std::int64_t c = 0; c < width; ++c) {
    column_[localised] = static_cast<std::int32_t>(c);
    localised += static_cast<double>(video_scores[c]) >= settings_.class_threshold ? 1 : 0;
  }
  if (localised == 0) {
    const Scalar* const best = std::max_element(video_scores, video_scores + width);
    column_[localised++] = static_cast<std::int32_t>(best - video_scores);
  }
  one_class_ = localised == 1;
  Scalar* const curve = curves<Scalar>();
  if (!usable(video_scores, width) || !gather(scores, length, width, column_, localised, curve)) {
    return fail(AICL_DECODE_NOT_FINITE, "a score of the %lld x %lld is NaN, infinite or above 1e38.", length,
                width);
  }

  length_ = static_cast<std::int32_t>(length);
  seconds_ = static_cast<double>(settings_.frames_per_segment) * static_cast<double>(num_segments) /
             (static_cast<double>(settings_.upscale * length) * settings_.fps);
  const auto points = [this](double seconds, double slack) noexcept {
    return std::min(static_cast<double>(INT32_MAX), seconds / seconds_ + slack);
  };
  const auto gap = static_cast<std::int32_t>(std::floor(points(settings_.merge_gap, kSlack)));
  const auto shortest = static_cast<std::int32_t>(std::ceil(points(settings_.min_seconds, -kSlack)));
  greatest_ = least_ = 0.0;
  std::int32_t n = 0;
  for (std::int32_t p = 0; p < localised; ++p) {
    const std::int32_t c = column_[p];
    tree_[p] = {n, n};
    if (!find_runs(curve + p * length, tree_[p])) {
      return fail(AICL_DECODE_TOO_LARGE, "more proposals than the plan's max_proposals, %lld (%lld thresholds).",
                  max_proposals_, static_cast<long long>(thresholds_.size()));
    }
    if (gap > 0 || shortest > 1) join_runs(tree_[p], gap, shortest);
    score_runs(tree_[p], c, settings_.video_score_weight * static_cast<double>(video_scores[c]));
    if (settings_.density_weight > 0.0) add_density(tree_[p]);
    n = tree_[p].end;
  }

  std::memset(gone_, 0, static_cast<std::size_t>(n));
  const std::int32_t step = settings_.nms_across_classes ? localised : 1;
  for (std::int32_t p = 0; p < localised; p += step) {
    if (settings_.nms == AICL_DECODE_GAUSSIAN) {
      gaussian(&tree_[p], &tree_[p] + step);
    } else {
      greedy(&tree_[p], &tree_[p] + step);
    }
  }
  // Boxes come out of one pool in the order of their scores, unless they decay afterwards.
  if (localised > step || settings_.nms == AICL_DECODE_DECAY_ONCE) sort(order_, count_);
  if (settings_.max_detections > 0) count_ = std::min(count_, settings_.max_detections);
  return AICL_DECODE_OK;
}

template aicl_decode_status Plan::run(const float*, const float*, std::int64_t, std::int64_t,
                                      std::int64_t) noexcept;
template aicl_decode_status Plan::run(const double*, const double*, std::int64_t, std::int64_t,
                                      std::int64_t) noexcept;

}  // namespace aicl
