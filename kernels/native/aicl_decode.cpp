// The C interface: a plan behind a pointer, statuses for exceptions.
#include "aicl_decode.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <limits>
#include <new>

#include "decode.hpp"

#ifndef AICL_FAST_VERSION
#error "AICL_FAST_VERSION: the build defines it from pyproject.toml"
#endif

struct aicl_decode_plan {
  explicit aicl_decode_plan(const aicl_decode_settings& settings) : plan(settings) {}
  aicl::Plan plan;
};

namespace {

constexpr double kThresholds[] = {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9};

void explain(char* why, std::size_t size, const char* text) {
  if (why != nullptr && size > 0) std::snprintf(why, size, "%s", text);
}

template <class Scalar>
aicl_decode_status decode(aicl_decode_plan* plan, const Scalar* scores, const Scalar* video_scores,
                          std::int64_t num_rows, std::int64_t num_classes, std::int64_t num_segments,
                          std::int32_t* labels, double* values, double* segments, std::int64_t capacity,
                          std::int64_t* count) {
  if (plan == nullptr) return AICL_DECODE_BAD_ARGUMENT;
  if (count == nullptr) {
    plan->plan.set_error("count is NULL; expected where the number of detections goes.");
    return AICL_DECODE_BAD_ARGUMENT;
  }
  *count = 0;
  if (num_classes > 0 && (scores == nullptr || video_scores == nullptr)) {
    plan->plan.set_error("scores or video_scores is NULL.");
    return AICL_DECODE_BAD_ARGUMENT;
  }
  if (capacity < 0 ||
      (capacity > 0 && (labels == nullptr || values == nullptr || segments == nullptr))) {
    plan->plan.set_error("expected three buffers for `capacity` detections, got a NULL or less than none.");
    return AICL_DECODE_BAD_ARGUMENT;
  }
  const aicl_decode_status status =
      plan->plan.run(scores, video_scores, num_rows, num_classes, num_segments);
  if (status != AICL_DECODE_OK) return status;
  const std::int32_t found = plan->plan.count();
  *count = found;
  const std::int32_t written = static_cast<std::int32_t>(std::min<std::int64_t>(found, capacity));
  for (std::int32_t i = 0; i < written; ++i) labels[i] = plan->plan.label(i);
  plan->plan.write(written, values, segments);
  if (found <= capacity) return AICL_DECODE_OK;
  plan->plan.set_error("more detections than `capacity`: the best were written, `count` is how many there are.");
  return AICL_DECODE_SMALL_BUFFER;
}

}  // namespace

extern "C" {

void aicl_decode_settings_init(aicl_decode_settings* settings) {
  if (settings == nullptr) return;
  *settings = aicl_decode_settings{};
  settings->struct_size = sizeof(aicl_decode_settings);
  settings->num_thresholds = sizeof kThresholds / sizeof kThresholds[0];
  settings->thresholds = kThresholds;
  settings->class_threshold = 0.25;
  settings->outer_ratio = 0.2;
  settings->video_score_weight = 0.2;
  settings->nms_tiou = 0.4;
  settings->nms_sigma = 0.35;
  settings->nms_added_seconds = 1.0;
  settings->min_score = 0.001;
  settings->fps = 25.0;
  settings->frames_per_segment = 16;
  settings->upscale = 24;
  settings->nms = AICL_DECODE_DECAY_ONCE;
  settings->max_segments = 750;
  settings->max_classes = 20;
}

aicl_decode_status aicl_decode_plan_create(const aicl_decode_settings* settings, aicl_decode_plan** plan,
                                           char* why, size_t why_size) {
  explain(why, why_size, "");
  if (plan == nullptr || settings == nullptr) {
    explain(why, why_size, "settings or plan is NULL.");
    return AICL_DECODE_BAD_ARGUMENT;
  }
  *plan = nullptr;
  if (settings->struct_size != sizeof(aicl_decode_settings)) {
    explain(why, why_size, "struct_size: begin with aicl_decode_settings_init, from this library's own header.");
    return AICL_DECODE_BAD_SETTINGS;
  }
  if (const char* wrong = aicl::Plan::check(*settings)) {
    explain(why, why_size, wrong);
    return AICL_DECODE_BAD_SETTINGS;
  }
  try {
    *plan = new aicl_decode_plan(*settings);
    return AICL_DECODE_OK;
  } catch (const std::exception&) {
    explain(why, why_size, "not enough memory for the plan: lower max_proposals, max_segments or max_classes.");
    return AICL_DECODE_NO_MEMORY;
  }
}

void aicl_decode_plan_destroy(aicl_decode_plan* plan) { delete plan; }

int64_t aicl_decode_plan_capacity(const aicl_decode_plan* plan) {
  return plan == nullptr ? 0 : plan->plan.capacity();
}

aicl_decode_status aicl_decode(aicl_decode_plan* plan, const float* scores, const float* video_scores,
                               int64_t num_rows, int64_t num_classes, int64_t num_segments, int32_t* labels,
                               double* values, double* segments, int64_t capacity, int64_t* count) {
  return decode(plan, scores, video_scores, num_rows, num_classes, num_segments, labels, values, segments,
                capacity, count);
}

aicl_decode_status aicl_decode_f64(aicl_decode_plan* plan, const double* scores, const double* video_scores,
                                   int64_t num_rows, int64_t num_classes, int64_t num_segments,
                                   int32_t* labels, double* values, double* segments, int64_t capacity,
                                   int64_t* count) {
  return decode(plan, scores, video_scores, num_rows, num_classes, num_segments, labels, values, segments,
                capacity, count);
}

const char* aicl_decode_error(const aicl_decode_plan* plan) {
  return plan == nullptr ? "plan is NULL: aicl_decode_plan_create makes one." : plan->plan.error();
}

const char* aicl_decode_status_text(aicl_decode_status status) {
  switch (status) {
    case AICL_DECODE_OK: return "ok";
    case AICL_DECODE_BAD_ARGUMENT: return "bad argument";
    case AICL_DECODE_BAD_SETTINGS: return "bad settings";
    case AICL_DECODE_TOO_LARGE: return "larger than the plan";
    case AICL_DECODE_NOT_FINITE: return "scores not finite";
    case AICL_DECODE_SMALL_BUFFER: return "buffer too small";
    case AICL_DECODE_NO_MEMORY: return "not enough memory";
  }
  return "unknown status";
}

const char* aicl_decode_version(void) { return AICL_FAST_VERSION; }

}  // extern "C"
