// Python's view of the native decoder: NumPy arrays in and out, plans shared by threads.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "decode.hpp"

namespace py = pybind11;

namespace {

// One video's arrays, held by Python while the interpreter lock is released.
struct Input {
  bool is_float;
  const void* scores;
  const void* video_scores;
  std::int64_t length, width, num_segments;
};

struct Output {
  std::vector<std::int64_t> labels;
  std::vector<double> values, segments;
  aicl_decode_status status = AICL_DECODE_OK;
  std::string error;
};

Input input(const py::array& scores, const py::array& video_scores, std::int64_t num_segments) {
  const bool is_float = py::isinstance<py::array_t<float>>(scores);
  const bool fits = is_float ? py::isinstance<py::array_t<float>>(video_scores)
                             : py::isinstance<py::array_t<double>>(scores) &&
                                   py::isinstance<py::array_t<double>>(video_scores);
  const bool contiguous = (scores.flags() & video_scores.flags() & py::array::c_style) != 0;
  if (!fits || !contiguous || scores.ndim() != 2 || video_scores.ndim() != 1 ||
      scores.shape(1) != video_scores.shape(0)) {
    throw std::invalid_argument("expected C-contiguous (T, C) scores and (C,) video scores of one float type");
  }
  return {is_float, scores.data(), video_scores.data(), scores.shape(0), scores.shape(1), num_segments};
}

// A decoder with fixed settings and a plan for every thread that is in it at the moment.
class Decoder {
 public:
  explicit Decoder(const std::vector<double>& thresholds, double class_threshold, int upscale,
                   double outer_ratio, double video_score_weight, int nms, double nms_tiou, double nms_sigma,
                   double nms_added_seconds, bool nms_across_classes, double min_score, int max_detections,
                   double fps, int frames_per_segment)
      : thresholds_(thresholds) {
    aicl_decode_settings_init(&settings_);
    settings_.thresholds = thresholds_.data();
    settings_.num_thresholds = static_cast<std::int32_t>(thresholds_.size());
    settings_.class_threshold = class_threshold;
    settings_.upscale = upscale;
    settings_.outer_ratio = outer_ratio;
    settings_.video_score_weight = video_score_weight;
    settings_.nms = nms;
    settings_.nms_tiou = nms_tiou;
    settings_.nms_sigma = nms_sigma;
    settings_.nms_added_seconds = nms_added_seconds;
    settings_.nms_across_classes = nms_across_classes ? 1 : 0;
    settings_.min_score = min_score;
    settings_.max_detections = max_detections;
    settings_.fps = fps;
    settings_.frames_per_segment = frames_per_segment;
    settings_.max_segments = 1;
    settings_.max_classes = 1;
    // Giving a plan back must not fail.
    idle_.reserve(kIdle);
    if (const char* wrong = aicl::Plan::check(settings_)) throw std::invalid_argument(wrong);
  }

  py::object decode(const py::array& scores, const py::array& video_scores, std::int64_t num_segments) {
    const Input in = input(scores, video_scores, num_segments);
    Lease lease(*this, in.length, in.width);
    aicl_decode_status status;
    {
      py::gil_scoped_release unlocked;
      status = lease.run(in);
    }
    if (status == AICL_DECODE_NOT_FINITE) return py::none();
    if (status != AICL_DECODE_OK) throw std::invalid_argument(lease.plan().error());
    const std::int32_t n = lease.plan().count();
    py::array_t<std::int64_t> labels(n);
    py::array_t<double> values(n);
    py::array_t<double> segments({n, 2});
    lease.plan().write(n, labels.mutable_data(), values.mutable_data(), segments.mutable_data());
    return py::make_tuple(std::move(labels), std::move(values), std::move(segments));
  }

  py::list decode_batch(const py::sequence& videos, int threads) {
    std::vector<Input> inputs;
    std::int64_t length = 1, width = 1;
    for (const py::handle& item : videos) {
      const auto video = py::reinterpret_borrow<py::tuple>(item);
      inputs.push_back(input(py::reinterpret_borrow<py::array>(video[0]),
                             py::reinterpret_borrow<py::array>(video[1]), video[2].cast<std::int64_t>()));
      length = std::max(length, inputs.back().length);
      width = std::max(width, inputs.back().width);
    }
    std::vector<Output> outputs(inputs.size());
    {
      py::gil_scoped_release unlocked;
      run_all(inputs, outputs, length, width, threads);
    }
    py::list results;
    for (const Output& out : outputs) {
      if (out.status == AICL_DECODE_NOT_FINITE) {
        results.append(py::none());
        continue;
      }
      if (out.status != AICL_DECODE_OK) throw std::invalid_argument(out.error);
      const auto n = static_cast<py::ssize_t>(out.values.size());
      py::array_t<double> segments({n, py::ssize_t{2}});
      std::copy(out.segments.begin(), out.segments.end(), segments.mutable_data());
      results.append(py::make_tuple(py::array_t<std::int64_t>(n, out.labels.data()),
                                    py::array_t<double>(n, out.values.data()), std::move(segments)));
    }
    return results;
  }

 private:
  // A plan large enough, taken from the idle ones or made, and given back at the end.
  class Lease {
   public:
    Lease(Decoder& owner, std::int64_t length, std::int64_t width)
        : owner_(owner), plan_(owner.take(length, width)) {}
    ~Lease() { owner_.give_back(std::move(plan_)); }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    aicl::Plan& plan() { return *plan_; }
    aicl_decode_status run(const Input& in) noexcept {
      return in.is_float ? plan_->run(static_cast<const float*>(in.scores),
                                      static_cast<const float*>(in.video_scores), in.length, in.width,
                                      in.num_segments)
                         : plan_->run(static_cast<const double*>(in.scores),
                                      static_cast<const double*>(in.video_scores), in.length, in.width,
                                      in.num_segments);
    }

   private:
    Decoder& owner_;
    std::unique_ptr<aicl::Plan> plan_;
  };

  std::unique_ptr<aicl::Plan> take(std::int64_t length, std::int64_t width) {
    aicl_decode_settings settings;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (length > settings_.max_segments || width > settings_.max_classes) {
        aicl_decode_settings larger = settings_;
        const std::int64_t most = INT32_MAX;
        larger.max_segments = static_cast<std::int32_t>(
            std::min(most, std::max<std::int64_t>(length, larger.max_segments)));
        larger.max_classes =
            static_cast<std::int32_t>(std::min(most, std::max<std::int64_t>(width, larger.max_classes)));
        if (const char* wrong = aicl::Plan::check(larger)) throw std::invalid_argument(wrong);
        settings_ = larger;
        idle_.clear();
      }
      if (!idle_.empty()) {
        auto plan = std::move(idle_.back());
        idle_.pop_back();
        return plan;
      }
      settings = settings_;
    }
    return std::make_unique<aicl::Plan>(settings);
  }

  void give_back(std::unique_ptr<aicl::Plan> plan) {
    const std::lock_guard<std::mutex> lock(mutex_);
    // One that was made for smaller videos would fail the next.
    if (plan != nullptr && plan->fits(settings_) && idle_.size() < kIdle) idle_.push_back(std::move(plan));
  }

  void run_all(const std::vector<Input>& inputs, std::vector<Output>& outputs, std::int64_t length,
               std::int64_t width, int threads) {
    std::atomic<std::size_t> next{0};
    std::exception_ptr thrown;
    std::mutex thrown_mutex;
    const auto work = [&]() noexcept {
      try {
        Lease lease(*this, length, width);
        for (std::size_t i = next++; i < inputs.size(); i = next++) {
          Output& out = outputs[i];
          out.status = lease.run(inputs[i]);
          if (out.status != AICL_DECODE_OK) {
            out.error = lease.plan().error();
            continue;
          }
          const auto n = static_cast<std::size_t>(lease.plan().count());
          out.labels.resize(n);
          out.values.resize(n);
          out.segments.resize(2 * n);
          lease.plan().write(static_cast<std::int32_t>(n), out.labels.data(), out.values.data(),
                             out.segments.data());
        }
      } catch (...) {
        const std::lock_guard<std::mutex> lock(thrown_mutex);
        thrown = std::current_exception();
      }
    };
    std::vector<std::thread> pool;
    try {
      for (int i = 1; i < threads; ++i) pool.emplace_back(work);
    } catch (const std::system_error&) {
      // No more threads to be had: those there are do the work.
    }
    work();
    for (std::thread& thread : pool) thread.join();
    if (thrown) std::rethrow_exception(thrown);
  }

  static constexpr std::size_t kIdle = 64;

  std::vector<double> thresholds_;
  aicl_decode_settings settings_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<aicl::Plan>> idle_;
};

}  // namespace

PYBIND11_MODULE(_native, module) {
  module.doc() = "Native decoding for aicl_fast.";
  module.def("version", &aicl_decode_version);
  py::class_<Decoder>(module, "Decoder")
      .def(py::init<const std::vector<double>&, double, int, double, double, int, double, double, double, bool,
                    double, int, double, int>(),
           py::kw_only(), py::arg("thresholds"), py::arg("class_threshold"), py::arg("upscale"),
           py::arg("outer_ratio"), py::arg("video_score_weight"), py::arg("nms"), py::arg("nms_tiou"),
           py::arg("nms_sigma"), py::arg("nms_added_seconds"), py::arg("nms_across_classes"),
           py::arg("min_score"), py::arg("max_detections"), py::arg("fps"), py::arg("frames_per_segment"))
      .def("decode", &Decoder::decode,
           "Labels, scores and segments of one video; None where a score is not finite.")
      .def("decode_batch", &Decoder::decode_batch, "The same for (scores, video_scores, num_segments) tuples.");
}
