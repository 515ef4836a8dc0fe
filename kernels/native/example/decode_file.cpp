// Reads the scores of one video from a text file and prints its detections.
//
//     decode_file scores.txt
//
// The file: T C n on the first line (rows, classes, the video's own segments), T rows of C scores, then C
// video scores. A line out: class, score, start and end in seconds.
#include <aicl_decode.h>

#include <cstdio>
#include <fstream>
#include <vector>

int main(int argc, char** argv) {
  std::ifstream file(argc > 1 ? argv[1] : "");
  std::int64_t rows = 0, classes = 0, num_segments = 0;
  if (!(file >> rows >> classes >> num_segments) || rows < 1 || classes < 1) {
    std::fprintf(stderr, "usage: decode_file FILE, which begins with: rows classes segments\n");
    return 2;
  }
  std::vector<float> scores(rows * classes), video_scores(classes);
  for (float& score : scores) file >> score;
  for (float& score : video_scores) file >> score;
  if (!file) return std::fprintf(stderr, "%s: too few scores\n", argv[1]), 2;

  aicl_decode_settings settings;
  aicl_decode_settings_init(&settings);
  settings.max_segments = static_cast<std::int32_t>(rows);
  settings.max_classes = static_cast<std::int32_t>(classes);
  aicl_decode_plan* plan = nullptr;
  char why[256];
  if (aicl_decode_plan_create(&settings, &plan, why, sizeof why) != AICL_DECODE_OK) {
    return std::fprintf(stderr, "%s\n", why), 1;
  }
  const std::int64_t capacity = aicl_decode_plan_capacity(plan);
  std::vector<std::int32_t> labels(capacity);
  std::vector<double> values(capacity), segments(2 * capacity);
  std::int64_t count = 0;
  if (aicl_decode(plan, scores.data(), video_scores.data(), rows, classes, num_segments, labels.data(),
                  values.data(), segments.data(), capacity, &count) != AICL_DECODE_OK) {
    return std::fprintf(stderr, "%s\n", aicl_decode_error(plan)), 1;
  }
  for (std::int64_t i = 0; i < count; ++i) {
    std::printf("%d %.17g %.17g %.17g\n", labels[i], values[i], segments[2 * i], segments[2 * i + 1]);
  }
  aicl_decode_plan_destroy(plan);
}
