// Drives the C interface with random and hostile input and compares its proposals with the grid's own.
// Meant for builds with sanitizers (-DAICL_FAST_SANITIZE=ON, thread or memory); exits with 1 after a disagreement.
//
//     aicl_decode_check [rounds] [seed]
#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <new>
#include <random>
#include <thread>
#include <tuple>
#include <vector>

#include "aicl_decode.h"

namespace {
std::atomic<std::int64_t> allocations{0};
}

// Some sanitizers bring their own operators, which then take the place of these.
#if defined(__GNUC__) || defined(__clang__)
#define AICL_REPLACEABLE __attribute__((weak))
#else
#define AICL_REPLACEABLE
#endif

// Counted, to hold the library to its word that decoding allocates nothing.
AICL_REPLACEABLE void* operator new(std::size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size > 0 ? size : 1)) return memory;
  throw std::bad_alloc();
}
AICL_REPLACEABLE void operator delete(void* memory) noexcept { std::free(memory); }
AICL_REPLACEABLE void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

struct Detection {
  int label;
  double score, start, end;
};

int failures = 0;

void expect(bool condition, const char* what, int round) {
  if (condition) return;
  std::fprintf(stderr, "round %d: %s\n", round, what);
  ++failures;
}

struct Plan {
  aicl_decode_plan* handle = nullptr;
  explicit Plan(const aicl_decode_settings& settings) {
    char why[256];
    if (aicl_decode_plan_create(&settings, &handle, why, sizeof why) != AICL_DECODE_OK) {
      std::fprintf(stderr, "plan: %s\n", why);
      std::exit(1);
    }
  }
  ~Plan() { aicl_decode_plan_destroy(handle); }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
};

struct Video {
  std::int64_t rows, classes, num_segments;
  std::vector<double> scores, video_scores;
};

// Every grid point is evaluated; runs and sums are taken point by point.
std::vector<Detection> propose(const Video& video, const aicl_decode_settings& s) {
  std::vector<Detection> found;
  std::vector<double> thresholds(s.thresholds, s.thresholds + s.num_thresholds);
  std::sort(thresholds.begin(), thresholds.end());
  thresholds.erase(std::unique(thresholds.begin(), thresholds.end()), thresholds.end());
  const double seconds = static_cast<double>(s.frames_per_segment) * static_cast<double>(video.num_segments) /
                         (static_cast<double>(s.upscale * video.rows) * s.fps);
  std::vector<std::int64_t> chosen;
  for (std::int64_t c = 0; c < video.classes; ++c) {
    if (video.video_scores[c] >= s.class_threshold) chosen.push_back(c);
  }
  if (chosen.empty() && video.classes > 0) {
    chosen.push_back(std::max_element(video.video_scores.begin(), video.video_scores.end()) -
                     video.video_scores.begin());
  }
  for (const std::int64_t c : chosen) {
    const auto at = [&](std::int64_t t) { return video.scores[t * video.classes + c]; };
    std::vector<double> grid;
    double slope = 0.0;
    for (std::int64_t t = 0; t < video.rows; ++t) {
      if (t + 1 < video.rows) slope = at(t + 1) - at(t);
      for (int r = 0; r < s.upscale; ++r) grid.push_back(at(t) + slope * (static_cast<double>(r) / s.upscale));
    }
    const std::int64_t n = static_cast<std::int64_t>(grid.size());
    std::vector<std::array<std::int64_t, 2>> spans;
    for (const double threshold : thresholds) {
      for (std::int64_t a = 0; a < n; ++a) {
        if (grid[a] < threshold) continue;
        std::int64_t b = a;
        for (std::int64_t j = a + 1; j < n && static_cast<double>(j - b - 1) <= s.merge_gap / seconds + 1e-6; ++j) {
          if (grid[j] >= threshold) b = j;
        }
        if (static_cast<double>(b - a + 1) < s.min_seconds / seconds - 1e-6) {
          a = b;
          continue;
        }
        spans.push_back({a, b});
        const double reach = s.outer_ratio * static_cast<double>(b - a + 1);
        const auto low = static_cast<std::int64_t>(std::max(0.0, static_cast<double>(a) - reach));
        const auto high =
            static_cast<std::int64_t>(std::min(static_cast<double>(n - 1), static_cast<double>(b) + reach));
        double inner = 0.0, outer = 0.0;
        for (std::int64_t j = a; j <= b; ++j) inner += grid[j];
        for (std::int64_t j = low; j < a; ++j) outer += grid[j];
        for (std::int64_t j = b + 1; j <= high; ++j) outer += grid[j];
        const std::int64_t points = (a - low) + (high - b);
        double score = inner / static_cast<double>(b - a + 1);
        if (points > 0) score -= outer / static_cast<double>(points);
        score += s.video_score_weight * video.video_scores[c];
        found.push_back({static_cast<int>(c), score, static_cast<double>(a) * seconds,
                         static_cast<double>(b + 1) * seconds});
        a = b;
      }
    }
    for (std::size_t i = 0; i < spans.size() && s.density_weight > 0; ++i) {
      std::vector<double> overlaps;
      for (std::size_t j = 0; j < spans.size(); ++j) {
        if (j == i) continue;
        const auto& x = spans[i];
        const auto& y = spans[j];
        const auto shared = std::max<std::int64_t>(0, std::min(x[1], y[1]) - std::max(x[0], y[0]) + 1);
        overlaps.push_back(static_cast<double>(shared) /
                           static_cast<double>(x[1] - x[0] + 1 + y[1] - y[0] + 1 - shared));
      }
      std::sort(overlaps.begin(), overlaps.end(), std::greater<>());
      overlaps.resize(std::min<std::size_t>(overlaps.size(), 10));
      double total = 0.0;
      for (const double overlap : overlaps) total += overlap;
      if (!overlaps.empty()) {
        found[found.size() - spans.size() + i].score += s.density_weight * (total / overlaps.size());
      }
    }
  }
  return found;
}

std::vector<Detection> decode(const Video& video, const aicl_decode_settings& settings, bool as_float,
                              int round) {
  const Plan plan(settings);
  // Buffers of exactly the size that is needed, so that a sanitizer sees one write too many.
  std::int64_t count = 0;
  const std::vector<float> narrow(video.scores.begin(), video.scores.end());
  const std::vector<float> narrow_video(video.video_scores.begin(), video.video_scores.end());
  const auto call = [&](std::int32_t* labels, double* values, double* segments, std::int64_t capacity) {
    return as_float ? aicl_decode(plan.handle, narrow.data(), narrow_video.data(), video.rows, video.classes,
                                  video.num_segments, labels, values, segments, capacity, &count)
                    : aicl_decode_f64(plan.handle, video.scores.data(), video.video_scores.data(), video.rows,
                                      video.classes, video.num_segments, labels, values, segments, capacity,
                                      &count);
  };
  const std::int64_t before = allocations;
  const aicl_decode_status first = call(nullptr, nullptr, nullptr, 0);
  expect(allocations == before, "decoding allocated memory", round);
  expect(first == (count > 0 ? AICL_DECODE_SMALL_BUFFER : AICL_DECODE_OK), aicl_decode_error(plan.handle), round);
  expect(count <= aicl_decode_plan_capacity(plan.handle), "more detections than the plan's capacity", round);
  std::vector<std::int32_t> labels(count);
  std::vector<double> values(count), segments(2 * count);
  expect(call(labels.data(), values.data(), segments.data(), count) == AICL_DECODE_OK, "second call", round);
  std::vector<Detection> found;
  for (std::int64_t i = 0; i < count; ++i) {
    found.push_back({labels[i], values[i], segments[2 * i], segments[2 * i + 1]});
    expect(std::isfinite(values[i]) && segments[2 * i] < segments[2 * i + 1], "an impossible detection", round);
    expect(i == 0 || values[i - 1] >= values[i], "not in descending order", round);
  }
  return found;
}

void check_random(int rounds, unsigned seed) {
  std::mt19937 random(seed);
  const auto pick = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
  const auto real = [&](double low, double high) {
    return std::uniform_real_distribution<double>(low, high)(random);
  };
  for (int round = 0; round < rounds; ++round) {
    Video video;
    video.rows = pick(0, 9) == 0 ? pick(1, 3000) : pick(1, 60);
    video.classes = pick(0, 4);
    video.num_segments = pick(1, 4000);
    const int kind = pick(0, 6);
    double walk = 0.5;
    for (std::int64_t i = 0; i < video.rows * video.classes; ++i) {
      walk += real(-0.1, 0.1);
      const double score[] = {real(0, 1),          pick(0, 10) * 0.1, 0.5,      walk, real(-3, 3) * 1e6,
                              pick(0, 1) ? 1.0 : -1.0, real(0, 1) * 1e-300};
      // Both entrances are to see the same numbers.
      video.scores.push_back(static_cast<float>(score[kind]));
    }
    for (std::int64_t c = 0; c < video.classes; ++c) {
      video.video_scores.push_back(static_cast<float>(real(0, 0.6)));
    }

    std::vector<double> thresholds;
    for (int k = pick(1, 12); k > 0; --k) thresholds.push_back(pick(0, 1) ? pick(-2, 12) * 0.1 : real(-1, 2));
    aicl_decode_settings settings;
    aicl_decode_settings_init(&settings);
    settings.thresholds = thresholds.data();
    settings.num_thresholds = static_cast<std::int32_t>(thresholds.size());
    settings.class_threshold = real(0, 0.7);
    settings.outer_ratio = pick(0, 3) * 0.2;
    settings.upscale = std::array<int, 5>{1, 2, 8, 24, 25}[pick(0, 4)];
    settings.merge_gap = std::array<double, 4>{0, 0, real(0, 5), 1e30}[pick(0, 3)];
    settings.min_seconds = std::array<double, 4>{0, 0, real(0, 5), 1e30}[pick(0, 3)];
    settings.density_weight = video.rows <= 60 && pick(0, 1) ? real(0, 2) : 0.0;
    settings.max_segments = static_cast<std::int32_t>(video.rows);
    settings.max_classes = static_cast<std::int32_t>(video.classes);

    // A Gaussian so wide that nothing decays shows the proposals themselves.
    settings.nms = AICL_DECODE_GAUSSIAN;
    settings.nms_sigma = 1e300;
    settings.min_score = -1e300;
    std::vector<Detection> found = decode(video, settings, pick(0, 1) == 0, round);
    std::vector<Detection> wanted = propose(video, settings);
    const auto by_place = [](const Detection& x, const Detection& y) {
      return std::tie(x.label, x.start, x.end, x.score) < std::tie(y.label, y.start, y.end, y.score);
    };
    std::sort(found.begin(), found.end(), by_place);
    std::sort(wanted.begin(), wanted.end(), by_place);
    expect(found.size() == wanted.size(), "another number of proposals than on the grid", round);
    const double scale = kind == 4 ? 1e6 : 1.0;
    for (std::size_t i = 0; i < std::min(found.size(), wanted.size()); ++i) {
      const bool same = found[i].label == wanted[i].label && found[i].start == wanted[i].start &&
                        found[i].end == wanted[i].end &&
                        std::abs(found[i].score - wanted[i].score) <= 1e-8 * scale;
      expect(same, "a proposal differs from the grid's", round);
      if (!same) break;
    }

    // Runs that are joined or dropped take room, too.
    const bool all_runs = settings.merge_gap == 0 && settings.min_seconds == 0;
    settings.max_proposals = static_cast<std::int32_t>(wanted.size());
    if (all_runs && !wanted.empty()) {
      expect(decode(video, settings, pick(0, 1) == 0, round).size() == wanted.size(), "just enough room", round);
    }
    if (all_runs && --settings.max_proposals > 0) {
      const Plan small(settings);
      std::int64_t count = 0;
      expect(aicl_decode_f64(small.handle, video.scores.data(), video.video_scores.data(), video.rows,
                             video.classes, video.num_segments, nullptr, nullptr, nullptr, 0,
                             &count) == AICL_DECODE_TOO_LARGE,
             "room for one proposal too few", round);
    }
    settings.max_proposals = 0;

    settings.nms = pick(0, 2);
    settings.nms_sigma = real(0.01, 1);
    settings.nms_tiou = pick(0, 3) == 0 ? pick(0, 1) : real(0, 1);
    settings.nms_added_seconds = pick(0, 1) ? 1.0 : real(0, 100);
    settings.nms_across_classes = pick(0, 1);
    settings.min_score = real(-0.1, 0.3);
    settings.max_detections = pick(0, 1) ? 0 : pick(1, 20);
    const std::vector<Detection> kept = decode(video, settings, pick(0, 1) == 0, round);
    expect(kept.size() <= wanted.size(), "more detections than proposals", round);
    if (settings.nms == AICL_DECODE_DECAY_ONCE && settings.max_detections == 0) {
      expect(kept.size() == wanted.size(), "decay_once lost a proposal", round);
    }
  }
}

// Plans in several threads at once give what one thread gets.
void check_threads() {
  std::mt19937 random(7);
  std::uniform_real_distribution<double> real(0, 1);
  Video video{300, 3, 431, {}, {0.5, 0.4, 0.1}};
  for (std::int64_t i = 0; i < video.rows * video.classes; ++i) video.scores.push_back(real(random));
  aicl_decode_settings settings;
  aicl_decode_settings_init(&settings);
  settings.max_segments = 300;
  settings.max_classes = 3;
  for (settings.nms = AICL_DECODE_DECAY_ONCE; settings.nms <= AICL_DECODE_GAUSSIAN; ++settings.nms) {
    std::vector<std::vector<double>> found(4);
    const auto work = [&](std::vector<double>& values) {
      const Plan plan(settings);
      const std::int64_t capacity = aicl_decode_plan_capacity(plan.handle);
      std::vector<std::int32_t> labels(capacity);
      std::vector<double> segments(2 * capacity);
      for (int turn = 0; turn < 20; ++turn) {
        std::int64_t count = 0;
        values.assign(capacity, 0.0);
        aicl_decode_f64(plan.handle, video.scores.data(), video.video_scores.data(), video.rows, video.classes,
                        video.num_segments, labels.data(), values.data(), segments.data(), capacity, &count);
        values.resize(count);
      }
    };
    std::vector<std::thread> threads;
    for (std::size_t i = 1; i < found.size(); ++i) threads.emplace_back([&, i] { work(found[i]); });
    work(found[0]);
    for (std::thread& thread : threads) thread.join();
    expect(!found[0].empty(), "threads found nothing", -1);
    for (const std::vector<double>& values : found) expect(values == found[0], "threads disagree", -1);
  }
}

void check_refusals() {
  aicl_decode_settings settings;
  aicl_decode_settings_init(&settings);
  char why[256];
  aicl_decode_plan* plan = nullptr;
  settings.upscale = 0;
  expect(aicl_decode_plan_create(&settings, &plan, why, sizeof why) == AICL_DECODE_BAD_SETTINGS, "upscale 0", -1);
  expect(plan == nullptr && why[0] != '\0', "a refusal without a reason", -1);
  expect(aicl_decode_plan_create(&settings, &plan, nullptr, 0) == AICL_DECODE_BAD_SETTINGS, "no room to say", -1);
  expect(aicl_decode_plan_create(nullptr, &plan, why, 4) == AICL_DECODE_BAD_ARGUMENT, "no settings", -1);
  aicl_decode_plan_destroy(nullptr);
  for (double aicl_decode_settings::* const option :
       {&aicl_decode_settings::merge_gap, &aicl_decode_settings::min_seconds, &aicl_decode_settings::density_weight}) {
    for (const double value : {-1.0, 1e101, std::nan("")}) {
      aicl_decode_settings_init(&settings);
      expect(settings.*option == 0.0, "an option that is on", -1);
      settings.*option = value;
      expect(aicl_decode_plan_create(&settings, &plan, why, sizeof why) == AICL_DECODE_BAD_SETTINGS, why, -1);
    }
  }

  aicl_decode_settings_init(&settings);
  settings.max_segments = 4;
  settings.max_classes = 1;
  settings.max_proposals = 2;
  const Plan small(settings);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  const float one = 1.0f, good[] = {0, 1, 0, 1, 0}, bad[] = {0, nan, 0, 1};
  std::int64_t count = 7;
  const auto call = [&](const float* scores, const float* video, std::int64_t rows, std::int64_t classes,
                        std::int64_t segments) {
    return aicl_decode(small.handle, scores, video, rows, classes, segments, nullptr, nullptr, nullptr, 0, &count);
  };
  expect(call(bad, &one, 4, 1, 9) == AICL_DECODE_NOT_FINITE && count == 0, "NaN", -1);
  expect(call(good, &inf, 4, 1, 9) == AICL_DECODE_NOT_FINITE, "infinite video score", -1);
  expect(call(good, &one, 5, 1, 9) == AICL_DECODE_TOO_LARGE, "too many rows", -1);
  expect(call(good, &one, 2, 2, 9) == AICL_DECODE_TOO_LARGE, "too many classes", -1);
  expect(call(good, &one, 4, 1, 9) == AICL_DECODE_TOO_LARGE, "too many proposals", -1);
  expect(aicl_decode_error(small.handle)[0] != '\0', "a refusal without a reason", -1);
  expect(call(good, &one, 0, 1, 9) == AICL_DECODE_BAD_ARGUMENT, "no rows", -1);
  expect(call(good, &one, 4, -1, 9) == AICL_DECODE_BAD_ARGUMENT, "fewer than no classes", -1);
  expect(call(good, &one, 4, 1, 0) == AICL_DECODE_BAD_ARGUMENT, "no segments", -1);
  expect(call(nullptr, &one, 4, 1, 9) == AICL_DECODE_BAD_ARGUMENT, "no scores", -1);
  expect(call(nullptr, nullptr, 4, 0, 9) == AICL_DECODE_OK && count == 0, "zero classes", -1);
  expect(aicl_decode(nullptr, good, &one, 4, 1, 9, nullptr, nullptr, nullptr, 0, &count) ==
             AICL_DECODE_BAD_ARGUMENT, "no plan", -1);
  for (int status = 0; status < 9; ++status) {
    expect(aicl_decode_status_text(static_cast<aicl_decode_status>(std::min(status, 6)))[0] != '\0', "text", -1);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 2000;
  check_refusals();
  check_threads();
  check_random(rounds, argc > 2 ? static_cast<unsigned>(std::atoi(argv[2])) : 1u);
  std::printf("aicl_decode %s: %d rounds, %d failures\n", aicl_decode_version(), rounds, failures);
  return failures == 0 ? 0 : 1;
}
