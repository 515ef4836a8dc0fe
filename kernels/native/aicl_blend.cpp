// The curves of a long recording from those of its windows, as aicl_fast/windows.py computes them.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <vector>

#include "aicl_decode.h"

namespace {

constexpr std::int64_t kMost = INT32_MAX;
constexpr float kLargest = 1e38f;

// Empty if the settings can be used, else what is wrong.
const char* check(const aicl_blend_settings& settings) {
  if (settings.struct_size != sizeof(aicl_blend_settings)) {
    return "struct_size: begin with aicl_blend_settings_init, from this library's own header.";
  }
  if (settings.num_classes < 1) return "num_classes: expected at least 1.";
  if (settings.window < 3 || settings.window > kMost) return "window: expected at least 3 segments.";
  if (settings.hop < 1 || settings.hop > settings.window) return "hop: expected 1 to the window's segments.";
  if (settings.num_segments < settings.window || settings.num_segments > kMost) {
    return "num_segments: expected at least the window's; a shorter recording is scored whole.";
  }
  if (settings.samples < 1 || settings.samples > kMost) return "samples: expected at least 1.";
  if (!(settings.fusion_gamma >= 0.0 && settings.fusion_gamma <= 1.0)) return "fusion_gamma: expected 0 to 1.";
  if (settings.class_span < 1 || settings.class_span > 1001 || settings.class_span % 2 == 0) {
    return "class_span: expected an odd number from 1 to 1001.";
  }
  if (!(settings.class_power >= 0.0 && settings.class_power <= 1e6)) return "class_power: expected 0 or more.";
  return nullptr;
}

bool finite(const float* values, std::int64_t count) {
  return std::all_of(values, values + count, [](float value) { return std::fabs(value) <= kLargest; });
}

}  // namespace

struct aicl_blend {
  explicit aicl_blend(const aicl_blend_settings& given)
      : settings(given),
        classes(static_cast<std::size_t>(given.num_classes)),
        count((given.num_segments - given.window + given.hop - 1) / given.hop + 1),
        weight(static_cast<std::size_t>(given.num_segments)),
        agnostic(weight.size()),
        fused(weight.size() * classes),
        present(given.fusion_gamma > 0.0 ? 0 : fused.size()),
        added(static_cast<std::size_t>(count)) {}

  std::int64_t start(std::int64_t index) const {
    return std::min(index * settings.hop, settings.num_segments - settings.window);
  }

  void add(std::int64_t index, const float* scores, const float* video_scores, const float* actionness) {
    const std::int64_t first = start(index);
    const double step = static_cast<double>(settings.samples) / static_cast<double>(settings.window);
    for (std::int64_t t = 0; t < settings.window; ++t) {
      const double place = static_cast<double>(t) * step;
      const std::int64_t low = std::min(static_cast<std::int64_t>(place), settings.samples - 1);
      const std::int64_t high = std::min(low + 1, settings.samples - 1);
      const float share = static_cast<float>(place - static_cast<double>(low)), rest = 1.0f - share;
      const float own = static_cast<float>(std::min(t, settings.window - 1 - t) + 1);
      const std::size_t segment = static_cast<std::size_t>(first + t);
      weight[segment] += own;
      agnostic[segment] += own * (rest * actionness[low] + share * actionness[high]);
      const std::int64_t width = settings.num_classes;
      for (std::int64_t c = 0; c < width; ++c) {
        const std::size_t at = segment * classes + static_cast<std::size_t>(c);
        fused[at] += own * (rest * scores[low * width + c] + share * scores[high * width + c]);
        if (!present.empty()) present[at] += own * video_scores[c];
      }
    }
    added[static_cast<std::size_t>(index)] = 1;
  }

  // The class score of a moment is the mean of the segments around it, with triangular weights.
  void finish(float* scores, float* video_scores) const {
    const std::int64_t reach = settings.class_span / 2, n = settings.num_segments, width = settings.num_classes;
    std::vector<float> near(fused.size()), sum(classes);
    const float gamma = static_cast<float>(settings.fusion_gamma);
    const float other = static_cast<float>(1.0 - settings.fusion_gamma);
    for (std::int64_t t = 0; t < n; ++t) {
      const std::size_t segment = static_cast<std::size_t>(t);
      const float action = agnostic[segment] / weight[segment];
      for (std::size_t c = 0; c < classes; ++c) {
        const std::size_t at = segment * classes + c;
        scores[at] = fused[at] / weight[segment];
        near[at] = present.empty() ? std::clamp((scores[at] - other * action) / gamma, 0.0f, 1.0f)
                                   : present[at] / weight[segment];
      }
    }
    std::fill(video_scores, video_scores + width, 0.0f);
    const float power = static_cast<float>(settings.class_power);
    for (std::int64_t t = 0; t < n; ++t) {
      std::fill(sum.begin(), sum.end(), 0.0f);
      float all = 0.0f;
      // Without a fused score of the classes, each window's video scores stand in as they are.
      const std::int64_t around = present.empty() ? reach : 0;
      for (std::int64_t offset = -around; offset <= around; ++offset) {
        const std::int64_t other_segment = t + offset;
        if (other_segment < 0 || other_segment >= n) continue;
        const float share = static_cast<float>(around + 1 - std::abs(offset));
        all += share;
        for (std::size_t c = 0; c < classes; ++c) {
          sum[c] += share * near[static_cast<std::size_t>(other_segment) * classes + c];
        }
      }
      for (std::size_t c = 0; c < classes; ++c) {
        const float score = sum[c] / all;
        video_scores[c] = std::max(video_scores[c], score);
        float& curve = scores[static_cast<std::size_t>(t) * classes + c];
        if (power == 0.5f) {
          curve *= std::sqrt(score);
        } else if (power > 0.0f) {
          curve *= std::pow(score, power);
        }
      }
    }
  }

  aicl_blend_settings settings;
  std::size_t classes;
  std::int64_t count;
  std::vector<float> weight, agnostic, fused, present;
  std::vector<std::uint8_t> added;
};

extern "C" {

void aicl_blend_settings_init(aicl_blend_settings* settings) {
  if (settings == nullptr) return;
  *settings = aicl_blend_settings{};
  settings->struct_size = sizeof(aicl_blend_settings);
  settings->num_classes = 20;
  settings->window = settings->samples = 750;
  settings->hop = 657;
  settings->fusion_gamma = 1.0 / 3.0;
  settings->class_span = 5;
  settings->class_power = 0.5;
}

aicl_decode_status aicl_blend_create(const aicl_blend_settings* settings, aicl_blend** blend, char* why,
                                     size_t why_size) {
  const auto explain = [=](const char* text) {
    if (why != nullptr && why_size > 0) std::snprintf(why, why_size, "%s", text);
  };
  explain("");
  if (settings == nullptr || blend == nullptr) {
    explain("settings or blend is NULL.");
    return AICL_DECODE_BAD_ARGUMENT;
  }
  *blend = nullptr;
  if (const char* wrong = check(*settings)) {
    explain(wrong);
    return AICL_DECODE_BAD_SETTINGS;
  }
  try {
    *blend = new aicl_blend(*settings);
    return AICL_DECODE_OK;
  } catch (const std::exception&) {
    explain("not enough memory for the curves of so many segments and classes.");
    return AICL_DECODE_NO_MEMORY;
  }
}

void aicl_blend_destroy(aicl_blend* blend) { delete blend; }

int64_t aicl_blend_windows(const aicl_blend* blend) { return blend == nullptr ? 0 : blend->count; }

int64_t aicl_blend_start(const aicl_blend* blend, int64_t index) {
  return blend == nullptr || index < 0 || index >= blend->count ? -1 : blend->start(index);
}

aicl_decode_status aicl_blend_add(aicl_blend* blend, int64_t index, const float* scores,
                                  const float* video_scores, const float* actionness_agnostic) {
  if (blend == nullptr || scores == nullptr || video_scores == nullptr || actionness_agnostic == nullptr ||
      index < 0 || index >= blend->count || blend->added[static_cast<std::size_t>(index)] != 0) {
    return AICL_DECODE_BAD_ARGUMENT;
  }
  const auto& settings = blend->settings;
  if (!finite(scores, settings.samples * settings.num_classes) || !finite(video_scores, settings.num_classes) ||
      !finite(actionness_agnostic, settings.samples)) {
    return AICL_DECODE_NOT_FINITE;
  }
  blend->add(index, scores, video_scores, actionness_agnostic);
  return AICL_DECODE_OK;
}

aicl_decode_status aicl_blend_finish(const aicl_blend* blend, float* scores, float* video_scores) {
  if (blend == nullptr || scores == nullptr || video_scores == nullptr) return AICL_DECODE_BAD_ARGUMENT;
  if (!std::all_of(blend->added.begin(), blend->added.end(), [](std::uint8_t done) { return done != 0; })) {
    return AICL_DECODE_BAD_ARGUMENT;
  }
  try {
    blend->finish(scores, video_scores);
    return AICL_DECODE_OK;
  } catch (const std::exception&) {
    return AICL_DECODE_NO_MEMORY;
  }
}

}  // extern "C"
