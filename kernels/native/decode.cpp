#include "decode.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>

// Two versions of a loop over all scores, one with wider vectors; the loader takes what the processor has.
// They only compare, so which one runs cannot change a result. Sanitizers start too late for the loader.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__OPTIMIZE__) && !defined(__SANITIZE_ADDRESS__) && \
    (defined(__clang__) ? __clang_major__ >= 14 : __GNUC__ >= 7)
#define AICL_WIDE_VECTORS __attribute__((target_clones("avx2", "default")))
#else
#define AICL_WIDE_VECTORS
#endif

namespace aicl {
namespace {

// Far above any score, and low enough that no sum over a grid of 2^31 points overflows.
constexpr double kLargest = 1e38;

template <class T>
std::unique_ptr<T[]> uninitialised(std::int64_t n) {
  return std::unique_ptr<T[]>(new T[static_cast<std::size_t>(std::max<std::int64_t>(n, 1))]);
}

bool within(double value, double low, double high) { return value >= low && value <= high; }

// Order of doubles, greatest first, as the order of their leading 24 bits.
constexpr int kDigits = 3;

std::uint32_t leading_bits(double value) noexcept {
  std::uint64_t bits;
  // -0.0 and 0.0 are equal, and must stay in their order.
  value += 0.0;
  std::memcpy(&bits, &value, sizeof bits);
  const std::uint32_t high = static_cast<std::uint32_t>(bits >> 32);
  return ((high & 0x80000000u) ? high : ~high & 0x7fffffffu) >> 8;
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
  if (!within(s.nms_tiou, 0, 1)) return "nms_tiou: expected between 0 and 1.";
  if (!(s.nms_sigma > 0)) return "nms_sigma: expected a positive number.";
  if (!within(s.nms_added_seconds, 0, 1e30)) return "nms_added_seconds: expected 0 to 1e30.";
  if (std::isnan(s.min_score)) return "min_score: expected a number.";
  if (!within(s.fps, 1e-30, 1e30)) return "fps: expected 1e-30 to 1e30.";
  if (s.frames_per_segment < 1) return "frames_per_segment: expected at least 1.";
  if (s.upscale < 1) return "upscale: expected at least 1.";
  if (s.nms < AICL_DECODE_DECAY_ONCE || s.nms > AICL_DECODE_GAUSSIAN) return "nms: there is no such mode.";
  if (s.max_detections < 0) return "max_detections: expected at least 0.";
  if (s.max_segments < 1) return "max_segments: expected at least 1.";
  if (s.max_classes < 0) return "max_classes: expected at least 0.";
  if (s.max_proposals < 0) return "max_proposals: expected at least 0.";
  const std::int64_t most = std::numeric_limits<std::int32_t>::max() - 1;
  if (std::int64_t{s.max_segments} * s.upscale > most) {
    return "max_segments * upscale: expected fewer than 2^31 grid points.";
  }
  if (std::int64_t{s.max_classes} * s.num_thresholds > most) {
    return "max_classes * num_thresholds: expected fewer than 2^31.";
  }
  return nullptr;
}

Plan::Plan(const aicl_decode_settings& settings)
    : settings_(settings), thresholds_(settings.thresholds, settings.thresholds + settings.num_thresholds) {
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
  weight_.resize(static_cast<std::size_t>(upscale));
  triangle_.resize(static_cast<std::size_t>(upscale));
  for (std::int32_t r = 0; r < upscale; ++r) {
    weight_[r] = static_cast<double>(r) / upscale;
    triangle_[r] = r * (r - 1.0) / (2.0 * upscale);
  }
  const std::int64_t length = settings.max_segments;
  value_ = uninitialised<double>(length + 1);
  slope_ = uninitialised<double>(length + 1);
  prefix_ = uninitialised<double>(length + 1);
  level_ = uninitialised<std::int32_t>(length + 1);
  change_ = uninitialised<std::int32_t>(length + 1);
  cursor_.resize(static_cast<std::size_t>(depth));
  layer_ = uninitialised<std::int32_t>(layers + 1);
  rank_ = uninitialised<std::int32_t>((length + 1) * settings.max_classes);
  next_ = uninitialised<std::int32_t>((length + 1) * layers);
  shortest_ = uninitialised<double>(layers);
  longest_ = uninitialised<double>(layers);
  const std::int64_t n = max_proposals_;
  first_ = uninitialised<std::int32_t>(n);
  stop_ = uninitialised<std::int32_t>(n);
  label_ = uninitialised<std::int32_t>(n);
  following_ = uninitialised<std::int32_t>(n + 1);
  start_ = uninitialised<double>(n);
  end_ = uninitialised<double>(n);
  score_ = uninitialised<double>(n);
  ranked_ = uninitialised<Ranked>(n);
  scratch_ = uninitialised<Ranked>(n);
  keep_ = uninitialised<std::uint8_t>(n);
  if (settings.nms == AICL_DECODE_GAUSSIAN) heap_ = uninitialised<Entry>(n);
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

// ---- proposals ---------------------------------------------------------------------------------------

// The column as float64, its slopes and prefix sums; the slope beyond the last segment is the one before.
template <class Scalar>
void Plan::load_curve(const Scalar* scores, std::int64_t length, std::int64_t width,
                      std::int64_t column) noexcept {
  double *const value = value_.get(), *const slope = slope_.get(), *const prefix = prefix_.get();
  for (std::int64_t t = 0; t < length; ++t) value[t] = static_cast<double>(scores[t * width + column]);
  for (std::int64_t t = 0; t + 1 < length; ++t) slope[t] = value[t + 1] - value[t];
  slope[length - 1] = length > 1 ? slope[length - 2] : 0.0;
  const double upscale = settings_.upscale;
  const double half = (settings_.upscale - 1) * 0.5;
  double sum = 0.0;
  for (std::int64_t t = 0; t < length; ++t) {
    prefix[t] = sum;
    sum = sum + (upscale * value[t] + slope[t] * half);
  }
  prefix[length] = sum;
  slope[length] = 0.0;
  // The grid's last point stands in for the segment that does not follow.
  value[length] = value[length - 1] + slope[length - 1] * weight_[settings_.upscale - 1];
}

namespace {

// level[t] = how many of the ascending thresholds value[t] reaches.
AICL_WIDE_VECTORS void count_levels(const double* value, std::int64_t n, const double* threshold, std::int32_t depth,
                  std::int32_t* level) noexcept {
  // As wide as a few vector registers, so that the counts stay in them.
  constexpr int kBlock = 8;
  std::int64_t t = 0;
  for (; t + kBlock <= n; t += kBlock) {
    std::int64_t reached[kBlock] = {};
    for (std::int32_t k = 0; k < depth; ++k) {
      const double height = threshold[k];
      for (int i = 0; i < kBlock; ++i) reached[i] += value[t + i] >= height ? 1 : 0;
    }
    for (int i = 0; i < kBlock; ++i) level[t + i] = static_cast<std::int32_t>(reached[i]);
  }
  for (; t < n; ++t) {
    level[t] = 0;
    for (std::int32_t k = 0; k < depth; ++k) level[t] += value[t] >= threshold[k] ? 1 : 0;
  }
}

}  // namespace

// Runs [first, stop) of every threshold, in grid points; false if the plan has no room for them.
//
// Within a cell the grid's values never turn, even rounded, so a threshold is crossed there at most once
// and only if the levels of its two ends differ.
//
// On the way it notes, at each segment where anything is crossed, which run of each threshold is the next
// to end: NMS looks its neighbours up there.
bool Plan::find_runs(std::int32_t layer, std::int64_t length) noexcept {
  const std::int32_t depth = static_cast<std::int32_t>(thresholds_.size());
  const std::int64_t row = layer / depth;
  const double* const threshold = thresholds_.data();
  const double* const weight = weight_.data();
  const double* const value = value_.get();
  const std::int32_t upscale = settings_.upscale;
  std::int32_t* const level = level_.get();
  count_levels(value, length + 1, threshold, depth, level);

  // Where anything is crossed, gathered first: what follows need not guess which segments those are.
  std::int32_t* const change = change_.get();
  std::int32_t* const rank = rank_.get() + row * (settings_.max_segments + std::int64_t{1});
  std::int32_t changes = 0;
  for (std::int32_t t = 0; t < length; ++t) {
    change[changes] = t;
    rank[t] = changes;
    changes += level[t] != level[t + 1] ? 1 : 0;
  }

  // How many runs each threshold has, one for each rise through it.
  std::int32_t* const cursor = cursor_.data();
  std::fill(cursor, cursor + depth, 0);
  for (std::int32_t k = 0; k < level[0]; ++k) ++cursor[k];
  for (std::int32_t i = 0; i < changes; ++i) {
    const std::int32_t t = change[i];
    for (std::int32_t k = level[t]; k < level[t + 1]; ++k) ++cursor[k];
  }
  std::int64_t total = layer_[layer];
  for (std::int32_t k = 0; k < depth; ++k) {
    const std::int64_t begin = total;
    total += cursor[k];
    if (total > max_proposals_) return false;
    layer_[layer + k + 1] = static_cast<std::int32_t>(total);
    cursor[k] = static_cast<std::int32_t>(begin);
  }

  std::int32_t* const first = first_.get();
  std::int32_t* const stop = stop_.get();
  std::int32_t* const next = next_.get() + row * (settings_.max_segments + std::int64_t{1}) * depth;
  for (std::int32_t k = 0; k < level[0]; ++k) first[cursor[k]] = 0;
  for (std::int32_t i = 0; i < changes; ++i) {
    const std::int32_t t = change[i], before = level[t], after = level[t + 1];
    std::copy(cursor, cursor + depth, next + i * std::int64_t{depth});
    const double v = value[t], slope = slope_[t];
    // The grid ends before the point that would follow the last segment.
    const std::int32_t top = t + 1 < length ? upscale : upscale - 1;
    const std::int32_t base = t * upscale;
    const bool rising = before < after;
    const double steps = upscale / slope;
    for (std::int32_t k = std::min(before, after); k < std::max(before, after); ++k) {
      // This lands within a step or so, or is NaN (then 1); the grid's own arithmetic decides.
      const double guess = (threshold[k] - v) * steps + 1.0;
      std::int32_t r = static_cast<std::int32_t>(std::min(std::max(1.0, guess), static_cast<double>(top)));
      while (r > 1 && (v + slope * weight[r - 1] >= threshold[k]) == rising) --r;
      while (r < top && (v + slope * weight[r] >= threshold[k]) != rising) ++r;
      if (rising) {
        first[cursor[k]] = base + r;
      } else {
        stop[cursor[k]++] = base + r;
      }
    }
  }
  std::copy(cursor, cursor + depth, next + changes * std::int64_t{depth});
  for (std::int32_t k = 0; k < level[length]; ++k) {
    stop[cursor[k]++] = static_cast<std::int32_t>(length) * upscale;
  }
  return true;
}

// Sum of the grid points before `point`.
inline double Plan::sum_before(std::int32_t point) const noexcept {
  const std::int32_t t = point / settings_.upscale;
  const std::int32_t m = point - t * settings_.upscale;
  return prefix_[t] + m * value_[t] + slope_[t] * triangle_[m];
}

void Plan::score_runs(std::int32_t layer, std::int32_t label, std::int64_t length, double bonus,
                      double seconds) noexcept {
  const std::int32_t depth = static_cast<std::int32_t>(thresholds_.size());
  const double last = static_cast<double>(length * settings_.upscale) - 1.0;
  const double ratio = settings_.outer_ratio;
  for (std::int32_t k = layer; k < layer + depth; ++k) {
    double shortest = std::numeric_limits<double>::infinity(), longest = 0.0;
    for (std::int32_t j = layer_[k]; j < layer_[k + 1]; ++j) {
      const std::int32_t a = first_[j], b = stop_[j] - 1;
      const double reach = ratio * (b - a + 1);
      const std::int32_t low = static_cast<std::int32_t>(std::max(0.0, a - reach));
      const std::int32_t high = static_cast<std::int32_t>(std::min(last, b + reach)) + 1;
      const double before = sum_before(a), behind = sum_before(b + 1);
      const std::int32_t outer = (a - low) + (high - b - 1);
      double value = (behind - before) / (b - a + 1);
      if (outer > 0) {
        const double left = before - sum_before(low), right = sum_before(high) - behind;
        value -= (left + right) / outer;
      }
      score_[j] = value + bonus;
      start_[j] = a * seconds;
      end_[j] = (b + 1) * seconds;
      label_[j] = label;
      const double span = end_[j] - start_[j];
      shortest = std::min(shortest, span);
      longest = std::max(longest, span);
    }
    shortest_[k] = shortest;
    longest_[k] = longest;
  }
}

// ---- non-maximum suppression -------------------------------------------------------------------------

// By descending score; what is equal stays in its order, which is by box.
//
// Radix sort on the leading bits, where nearly all scores differ, then insertion on the whole score.
void Plan::sort(Ranked* items, std::int32_t n) noexcept {
  const double* const score = score_.get();
  const auto precedes = [score](const Ranked& x, const Ranked& y) {
    return score[x.box] > score[y.box] || (score[x.box] == score[y.box] && x.box < y.box);
  };
  if (n > 32) {
    std::int32_t counts[kDigits][256] = {};
    for (std::int32_t i = 0; i < n; ++i) {
      const std::uint32_t key = leading_bits(score[items[i].box]);
      items[i].key = key;
      for (int digit = 0; digit < kDigits; ++digit) ++counts[digit][(key >> (8 * digit)) & 255];
    }
    Ranked *source = items, *target = scratch_.get();
    for (int digit = 0; digit < kDigits; ++digit) {
      std::int32_t* const count = counts[digit];
      const int shift = 8 * digit;
      if (count[(source[0].key >> shift) & 255] == n) continue;
      std::int32_t sum = 0;
      for (int d = 0; d < 256; ++d) {
        const std::int32_t here = count[d];
        count[d] = sum;
        sum += here;
      }
      for (std::int32_t i = 0; i < n; ++i) target[count[(source[i].key >> shift) & 255]++] = source[i];
      std::swap(source, target);
    }
    if (source != items) std::memcpy(items, source, sizeof(Ranked) * static_cast<std::size_t>(n));
  }
  // Scores made to agree in their leading bits would make insertion quadratic.
  std::int64_t moves = 0;
  for (std::int32_t i = 1; i < n; ++i) {
    const Ranked item = items[i];
    std::int32_t j = i;
    for (; j > 0 && score[items[j - 1].box] < score[item.box]; --j) items[j] = items[j - 1];
    items[j] = item;
    moves += i - j;
    if (moves > 16 * std::int64_t{n} + 512) {
      std::sort(items, items + n, precedes);
      return;
    }
  }
}

// By threshold, the first box of one class that may not lie wholly before `begin` seconds.
inline const std::int32_t* Plan::next_ending(std::int32_t layer, double begin) const noexcept {
  const std::int64_t depth = static_cast<std::int64_t>(thresholds_.size());
  const std::int64_t base = layer / depth * (settings_.max_segments + std::int64_t{1});
  // A little early: what the rounding of a time could pass over is looked at instead.
  const double segment = begin * segments_per_second_ - 1e-3;
  const std::int32_t t =
      segment > 0.0 ? static_cast<std::int32_t>(std::min(segment, static_cast<double>(length_ - 1))) : 0;
  return next_.get() + (base + rank_[base + t]) * depth;
}

// The first box from `box` on that is still in the pool. Walked links are shortened.
inline std::int32_t Plan::alive(std::int32_t box) noexcept {
  std::int32_t* const following = following_.get();
  while (following[box] != box) {
    following[box] = following[following[box]];
    box = following[box];
  }
  return box;
}

// decay_once and hard over the layers low..high.
//
// A layer's boxes are disjoint and in time order. So a kept box meets only the few that overlap it, from a
// place noted by find_runs, and a box that has left the pool is not compared again.
void Plan::greedy(std::int32_t low, std::int32_t high) noexcept {
  const double tiou = settings_.nms_tiou, sigma = settings_.nms_sigma, added = settings_.nms_added_seconds;
  const bool decays = settings_.nms == AICL_DECODE_DECAY_ONCE, overlapping = tiou > 0.0;
  // tIoU is at most the ratio of the lengths: layers of much shorter or longer boxes are passed over.
  const double ratio = tiou * (1.0 - 1e-9);
  const double *const start = start_.get(), *const end = end_.get();
  const std::int32_t depth = static_cast<std::int32_t>(thresholds_.size());
  const std::int32_t begin = layer_[low], n = layer_[high] - begin;
  for (std::int32_t i = 0; i < n; ++i) ranked_[i].box = begin + i;
  sort(ranked_.get(), n);
  for (std::int32_t i = 0; i < n; ++i) {
    const std::int32_t best = ranked_[i].box;
    if (following_[best] != best) continue;
    following_[best] = best + 1;
    keep_[best] = 1;
    const double b_start = start[best], b_end = end[best], b_length = b_end - b_start + added;
    const std::int32_t* next = nullptr;
    for (std::int32_t k = low, d = depth; k < high; ++k, ++d) {
      if (d == depth) {
        d = 0;
        next = next_ending(k, b_start - added);
      }
      if (longest_[k] + added < ratio * b_length || ratio * (shortest_[k] + added) > b_length) continue;
      const std::int32_t stop = layer_[k + 1];
      std::int32_t j = layer_[k];
      // Only boxes that overlap can reach a tIoU above 0; at 0, all do.
      if (overlapping) {
        for (j = next[d]; j < stop && !(end[j] - b_start + added > 0.0);) ++j;
      }
      for (j = alive(j); j < stop; j = alive(j + 1)) {
        if (overlapping && !(b_end - start[j] + added > 0.0)) break;
        const double shared = std::max(0.0, std::min(b_end, end[j]) - std::max(b_start, start[j]) + added);
        const double all = b_length + (end[j] - start[j] + added) - shared;
        const double overlap = shared / all;
        if (overlap >= tiou) {
          following_[j] = j + 1;
          if (decays) {
            score_[j] *= std::exp(-overlap * overlap / sigma);
            keep_[j] = 1;
          }
        }
      }
    }
  }
}

// Soft-NMS of Bodla et al. 2017 over the layers low..high, ranked anew after each box.
//
// Scores only fall, so the heap may hold old ones: a box that comes up with an old score goes back with its
// present one.
void Plan::gaussian(std::int32_t low, std::int32_t high) noexcept {
  const double sigma = settings_.nms_sigma, added = settings_.nms_added_seconds, floor = settings_.min_score;
  const double *const start = start_.get(), *const end = end_.get();
  const std::int32_t depth = static_cast<std::int32_t>(thresholds_.size());
  double* const score = score_.get();
  Entry* const heap = heap_.get();
  const auto ranks_below = [](const Entry& x, const Entry& y) {
    return x.score < y.score || (x.score == y.score && x.box > y.box);
  };
  std::int32_t size = 0;
  for (std::int32_t j = layer_[low]; j < layer_[high]; ++j) {
    if (score[j] < floor) {
      following_[j] = j + 1;
    } else {
      heap[size++] = {score[j], j};
    }
  }
  std::make_heap(heap, heap + size, ranks_below);
  while (size > 0) {
    std::pop_heap(heap, heap + size, ranks_below);
    const std::int32_t best = heap[size - 1].box;
    if (following_[best] == best && heap[size - 1].score != score[best]) {
      heap[size - 1].score = score[best];
      std::push_heap(heap, heap + size, ranks_below);
      continue;
    }
    --size;
    if (following_[best] != best) continue;
    following_[best] = best + 1;
    keep_[best] = 1;
    const double b_start = start[best], b_end = end[best], b_length = b_end - b_start + added;
    const std::int32_t* next = nullptr;
    for (std::int32_t k = low, d = depth; k < high; ++k, ++d) {
      if (d == depth) {
        d = 0;
        next = next_ending(k, b_start - added);
      }
      const std::int32_t stop = layer_[k + 1];
      std::int32_t j = next[d];
      while (j < stop && !(end[j] - b_start + added > 0.0)) ++j;
      for (j = alive(j); j < stop && b_end - start[j] + added > 0.0; j = alive(j + 1)) {
        const double shared = std::max(0.0, std::min(b_end, end[j]) - std::max(b_start, start[j]) + added);
        const double all = b_length + (end[j] - start[j] + added) - shared;
        const double overlap = shared / all;
        // A score below 0 would rise by decaying.
        if (score[j] > 0.0) score[j] *= std::exp(-overlap * overlap / sigma);
        if (score[j] < floor) following_[j] = j + 1;
      }
    }
  }
}

// ---- one video ---------------------------------------------------------------------------------------

namespace {

// Whether all are finite and within bounds. Counted to the end: a loop that may leave early is no faster.
AICL_WIDE_VECTORS bool usable(const float* values, std::int64_t n) noexcept {
  int bad = 0;
  for (std::int64_t i = 0; i < n; ++i) bad |= !(std::abs(values[i]) <= static_cast<float>(kLargest));
  return bad == 0;
}

AICL_WIDE_VECTORS bool usable(const double* values, std::int64_t n) noexcept {
  std::int64_t bad = 0;
  for (std::int64_t i = 0; i < n; ++i) bad |= !(std::abs(values[i]) <= kLargest);
  return bad == 0;
}

}  // namespace

template <class Scalar>
aicl_decode_status Plan::run(const Scalar* scores, const Scalar* video_scores, std::int64_t length,
                             std::int64_t width, std::int64_t num_segments) noexcept {
  count_ = 0;
  error_[0] = '\0';
  if (length < 1) return fail(AICL_DECODE_BAD_ARGUMENT, "num_rows is %lld; expected at least %lld.", length, 1);
  if (width < 0) return fail(AICL_DECODE_BAD_ARGUMENT, "num_classes is %lld; expected at least %lld.", width, 0);
  if (num_segments < 1 || num_segments > (std::int64_t{1} << 40)) {
    return fail(AICL_DECODE_BAD_ARGUMENT, "num_segments is %lld; expected 1 to %lld.", num_segments, 1LL << 40);
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
  if (!usable(scores, length * width) || !usable(video_scores, width)) {
    return fail(AICL_DECODE_NOT_FINITE, "a score of the %lld x %lld is NaN, infinite or above 1e38.", length,
                width);
  }

  const double seconds = static_cast<double>(settings_.frames_per_segment) * static_cast<double>(num_segments) /
                         (static_cast<double>(settings_.upscale * length) * settings_.fps);
  const std::int32_t depth = static_cast<std::int32_t>(thresholds_.size());
  length_ = length;
  segments_per_second_ = 1.0 / (settings_.upscale * seconds);
  std::int32_t layers = 0;
  layer_[0] = 0;
  const auto localise = [&](std::int64_t c) noexcept {
    const double v = static_cast<double>(video_scores[c]);
    load_curve(scores, length, width, c);
    if (!find_runs(layers, length)) return false;
    score_runs(layers, static_cast<std::int32_t>(c), length, settings_.video_score_weight * v, seconds);
    layers += depth;
    return true;
  };
  bool room = true;
  for (std::int64_t c = 0; c < width && room; ++c) {
    if (static_cast<double>(video_scores[c]) >= settings_.class_threshold) room = localise(c);
  }
  if (layers == 0 && room) room = localise(std::max_element(video_scores, video_scores + width) - video_scores);
  if (!room) {
    return fail(AICL_DECODE_TOO_LARGE, "more proposals than the plan's max_proposals, %lld (%lld thresholds).",
                max_proposals_, depth);
  }

  const std::int32_t n = layer_[layers];
  for (std::int32_t j = 0; j <= n; ++j) following_[j] = j;
  std::memset(keep_.get(), 0, static_cast<std::size_t>(n));
  const std::int32_t step = settings_.nms_across_classes ? layers : depth;
  for (std::int32_t low = 0; low < layers; low += step) {
    if (settings_.nms == AICL_DECODE_GAUSSIAN) {
      gaussian(low, low + step);
    } else {
      greedy(low, low + step);
    }
  }
  std::int32_t kept = 0;
  for (std::int32_t j = 0; j < n; ++j) {
    ranked_[kept].box = j;
    kept += keep_[j];
  }
  sort(ranked_.get(), kept);
  count_ = settings_.max_detections > 0 ? std::min(kept, settings_.max_detections) : kept;
  return AICL_DECODE_OK;
}

template aicl_decode_status Plan::run(const float*, const float*, std::int64_t, std::int64_t,
                                      std::int64_t) noexcept;
template aicl_decode_status Plan::run(const double*, const double*, std::int64_t, std::int64_t,
                                      std::int64_t) noexcept;

}  // namespace aicl
