// Runs what docs/export.md shows, and prints what it finds.
#include "snippet.cpp"

namespace {

class Silent : public nvinfer1::ILogger {
  void log(Severity, char const*) noexcept override {}
};

}  // namespace

// A file, then recordings' lengths; an empty line after each recording. Fails if anything is left over.
int main(int count, char** arguments) {
  Silent logger;
  {
    Localiser localise(arguments[1], logger, nullptr);
    std::vector<float> features(localise.T * localise.D, 0.25f);
    for (int i = 2; i < count; ++i) {
      for (const Found& found : localise(features.data(), std::atoll(arguments[i])))
        std::printf("%d %.17g %.17g %.17g\n", found.label, found.score, found.start, found.end);
      std::printf("\n");
    }
  }
  return allocated + nvinfer1::alive;
}
