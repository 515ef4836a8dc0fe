// Calls the function that docs/export.md shows, and prints what it finds.
#include "snippet.cpp"

namespace {

class Silent : public nvinfer1::ILogger {
  void log(Severity, char const*) noexcept override {}
};

}  // namespace

int main(int, char** arguments) {
  Silent logger;
  std::vector<float> features(750 * 2048, 0.25f);
  for (const Found& found : localise(arguments[1], features.data(), std::atoll(arguments[2]), logger, nullptr)) {
    std::printf("%d %.17g %.17g %.17g\n", found.label, found.score, found.start, found.end);
  }
}
