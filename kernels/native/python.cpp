// Python's view of the native decoder: NumPy arrays in and out, plans shared by threads.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "decode.hpp"

namespace py = pybind11;

namespace {

// Frames a second.
constexpr double kLeastRate = 1e-30, kMostRate = 1e30;

// One video's arrays, held by Python while the interpreter lock is released.
struct Input {
  bool is_float;
  const void* scores;
  const void* video_scores;
  std::int64_t length, width, num_segments;
  double fps;
  std::int32_t frames_per_segment;
};

struct Output {
  std::vector<std::int32_t> labels;
  bool one_class = false;
  std::vector<double> values, segments;
  aicl_decode_status status = AICL_DECODE_OK;
  std::string error;
};

// What is looked up in NumPy once.
struct Numpy {
  py::object array = py::module_::import("numpy").attr("ndarray");
  py::dtype float64 = py::dtype::of<double>();
};

const Numpy& numpy() {
  // Never freed: the interpreter may be gone before this module is.
  static const Numpy* const found = new Numpy;
  return *found;
}

// An array itself, C-contiguous, and not of a child of NumPy's class, which may do as it pleases.
bool is_plain(const py::handle& object, int dimensions) {
  if (Py_TYPE(object.ptr()) != reinterpret_cast<PyTypeObject*>(numpy().array.ptr())) return false;
  const auto array = py::reinterpret_borrow<py::array>(object);
  constexpr int kPlain = py::array::c_style | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
  return array.ndim() == dimensions && (array.flags() & kPlain) == kPlain;
}

// Whether its numbers are of this type, in this processor's byte order.
template <class Scalar>
bool holds(const py::array& array) {
  const py::dtype type = array.dtype();
  const std::uint16_t one = 1;
  const char native = *reinterpret_cast<const unsigned char*>(&one) == 1 ? '<' : '>';
  // Types that come from a buffer name their order even where it is the processor's.
  return type.num() == py::dtype::num_of<Scalar>() && (type.byteorder() == '=' || type.byteorder() == native);
}

// A new array. pybind11's own way there takes the memory for shape and strides from the heap.
py::array empty(const py::dtype& type, py::ssize_t n, py::ssize_t width = 0) {
  const auto& api = py::detail::npy_api::get();
  const Py_intptr_t shape[] = {n, width};
  PyObject* const array = api.PyArray_NewFromDescr_(api.PyArray_Type_, type.inc_ref().ptr(), width > 0 ? 2 : 1, shape,
                                                    nullptr, nullptr, 0, nullptr);
  if (array == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::array>(array);
}

// A whole number from 1 to `most`; 0 if it is anything else.
std::int64_t read_count(const py::handle& number, std::int64_t most) {
  if (!PyLong_Check(number.ptr())) return 0;
  int overflow = 0;
  const std::int64_t value = PyLong_AsLongLongAndOverflow(number.ptr(), &overflow);
  return overflow == 0 && value >= 1 && value <= most ? value : 0;
}

// Fills `in` from (T, C) and (C,) scores of one float type, two whole numbers and a float; false if they are
// anything else.
bool read(const py::handle& scores, const py::handle& video_scores, const py::handle& num_segments,
          const py::handle& fps, const py::handle& frames_per_segment, Input& in) {
  if (!is_plain(scores, 2) || !is_plain(video_scores, 1) || !PyFloat_Check(fps.ptr())) return false;
  const auto a_score = py::reinterpret_borrow<py::array>(scores);
  const auto v = py::reinterpret_borrow<py::array>(video_scores);
  in.is_float = holds<float>(a_score) && holds<float>(v);
  if (!(in.is_float || (holds<double>(a_score) && holds<double>(v))) || a_score.shape(0) < 1 ||
      a_score.shape(1) != v.shape(0)) {
    return false;
  }
  in.num_segments = read_count(num_segments, aicl::kMostSegments);
  in.frames_per_segment = static_cast<std::int32_t>(read_count(frames_per_segment, INT32_MAX));
  in.fps = PyFloat_AS_DOUBLE(fps.ptr());
  if (in.num_segments == 0 || in.frames_per_segment == 0 || !(in.fps >= kLeastRate && in.fps <= kMostRate)) {
    return false;
  }
  in.scores = a_score.data();
  in.video_scores = v.data();
  in.length = a_score.shape(0);
  in.width = a_score.shape(1);
  return true;
}

// Class names, all of them texts of as many bytes.
class Names {
 public:
  explicit Names(const py::object& names) {
    if (!is_plain(names, 1)) throw std::invalid_argument("classes: expected an array of names.");
    array_ = py::reinterpret_borrow<py::array>(names);
    if (array_.dtype().kind() != 'U') throw std::invalid_argument("classes: expected an array of names.");
    width_ = array_.shape(0);
  }
  std::int64_t width() const noexcept { return width_; }

  // (n,) the names of `label(i)`, which is the same for all of `one_class`.
  template <class Label>
  py::array of(std::int32_t n, bool one_class, Label label) const {
    py::array texts = empty(array_.dtype(), n);
    const std::size_t size = static_cast<std::size_t>(array_.itemsize());
    const char* const names = static_cast<const char*>(array_.data());
    char* text = static_cast<char*>(texts.mutable_data());
    if (one_class && n > 0) {
      std::memcpy(text, names + static_cast<std::size_t>(label(0)) * size, size);
      // What has been written is doubled.
      for (std::size_t done = size, all = static_cast<std::size_t>(n) * size; done < all; done *= 2) {
        std::memcpy(text + done, text, std::min(done, all - done));
      }
      return texts;
    }
    for (std::int32_t i = 0; i < n; ++i, text += size) {
      const char* const name = names + static_cast<std::size_t>(label(i)) * size;
      if (size < kStep) {
        std::memcpy(text, name, size);
        continue;
      }
      // A call of memcpy would take longer than the copy.
      for (std::size_t at = 0; at + kStep < size; at += kStep) std::memcpy(text + at, name + at, kStep);
      std::memcpy(text + size - kStep, name + size - kStep, kStep);
    }
    return texts;
  }

 private:
  static constexpr std::size_t kStep = 16;
  // Nothing yet: py::array() would be a new array.
  py::array array_ = py::reinterpret_steal<py::array>(py::handle());
  std::int64_t width_ = 0;
};

// The class of results, filled as its own __init__ would, whose conversions would take a quarter of a call.
class Result {
 public:
  explicit Result(py::type type) : type_(std::move(type)) {}

  py::object of(const py::array& labels, const py::array& scores, const py::array& segments,
                const py::handle& video) const {
    PyTypeObject* const base = &PyBaseObject_Type;
    auto made = py::reinterpret_steal<py::object>(
        base->tp_new(reinterpret_cast<PyTypeObject*>(type_.ptr()), nothing_.ptr(), nullptr));
    if (!made) throw py::error_already_set();
    set(made, labels_, labels);
    set(made, scores_, scores);
    set(made, segments_, segments);
    set(made, video_, video);
    return made;
  }

 private:
  static void set(const py::object& made, const py::str& name, const py::handle& value) {
    // Past the class's own __setattr__: it is frozen.
    if (PyObject_GenericSetAttr(made.ptr(), name.ptr(), value.ptr()) != 0) throw py::error_already_set();
  }
  static py::str interned(const char* name) {
    return py::reinterpret_steal<py::str>(PyUnicode_InternFromString(name));
  }

  py::type type_;
  py::tuple nothing_;
  py::str labels_ = interned("labels"), scores_ = interned("scores"), segments_ = interned("segments"),
          video_ = interned("video");
};

// A decoder with fixed settings and a plan for every thread that is in it at the moment.
class Decoder {
 public:
  explicit Decoder(const std::vector<double>& thresholds, double class_threshold, int upscale, double merge_gap,
                   double min_seconds, double outer_ratio, double video_score_weight, double density_weight,
                   int nms, double nms_tiou, double nms_sigma, double nms_added_seconds, bool nms_across_classes,
                   double min_score, int max_detections, const py::object& classes, py::type result)
      : result_(std::move(result)), names_(classes), thresholds_(thresholds) {
    aicl_decode_settings_init(&settings_);
    settings_.thresholds = thresholds_.data();
    settings_.num_thresholds = static_cast<std::int32_t>(thresholds_.size());
    settings_.class_threshold = class_threshold;
    settings_.upscale = upscale;
    settings_.merge_gap = merge_gap;
    settings_.min_seconds = min_seconds;
    settings_.outer_ratio = outer_ratio;
    settings_.video_score_weight = video_score_weight;
    settings_.density_weight = density_weight;
    settings_.nms = nms;
    settings_.nms_tiou = nms_tiou;
    settings_.nms_sigma = nms_sigma;
    settings_.nms_added_seconds = nms_added_seconds;
    settings_.nms_across_classes = nms_across_classes ? 1 : 0;
    settings_.min_score = min_score;
    settings_.max_detections = max_detections;
    settings_.max_segments = 1;
    settings_.max_classes = static_cast<std::int32_t>(std::min<std::int64_t>(names_.width(), INT32_MAX));
    settings_.max_proposals = kProposals;
    // Giving a plan back must not fail.
    idle_.reserve(kIdle);
    if (const char* wrong = aicl::Plan::check(settings_)) throw std::invalid_argument(wrong);
  }

  py::object decode(const py::handle& scores, const py::handle& video_scores, const py::handle& num_segments,
                    const py::handle& fps, const py::handle& frames_per_segment, const py::handle& video) {
    Input in;
    if (!read(scores, video_scores, num_segments, fps, frames_per_segment, in) || !holds(in)) return py::none();
    Lease lease(*this, in.length);
    // Nothing in between throws, so the lock needs no guard, which would take as long as the lock itself.
    PyThreadState* const state = PyEval_SaveThread();
    aicl_decode_status status = lease.run(in);
    PyEval_RestoreThread(state);
    if (status == AICL_DECODE_TOO_LARGE) {
      const py::gil_scoped_release unlocked;
      status = lease.run_larger(in);
    }
    if (status == AICL_DECODE_NOT_FINITE) return py::none();
    const aicl::Plan& plan = lease.plan();
    if (status != AICL_DECODE_OK) throw std::invalid_argument(plan.error());
    const std::int32_t n = plan.count();
    py::array values = empty(numpy().float64, n), segments = empty(numpy().float64, n, 2);
    plan.write(n, static_cast<double*>(values.mutable_data()), static_cast<double*>(segments.mutable_data()));
    const py::array labels = names_.of(n, plan.one_class(), [&](std::int32_t i) { return plan.label(i); });
    return result_.of(labels, values, segments, video);
  }

  py::list decode_batch(const py::sequence& videos, int threads) {
    std::vector<Input> inputs;
    std::int64_t length = 1;
    for (const py::handle& item : videos) {
      const auto video = py::reinterpret_borrow<py::tuple>(item);
      Input in;
      if (!read(video[0], video[1], video[2], video[3], video[4], in) || !holds(in)) {
        throw std::invalid_argument("expected C-contiguous (T, C) scores and (C,) video scores, and usable numbers");
      }
      inputs.push_back(in);
      length = std::max(length, in.length);
    }
    std::vector<Output> outputs(inputs.size());
    {
      py::gil_scoped_release unlocked;
      run_all(inputs, outputs, length, threads);
    }
    py::list results;
    for (std::size_t b = 0; b < outputs.size(); ++b) {
      const Output& out = outputs[b];
      if (out.status == AICL_DECODE_NOT_FINITE) {
        results.append(py::none());
        continue;
      }
      if (out.status != AICL_DECODE_OK) throw std::invalid_argument(out.error);
      const auto n = static_cast<std::int32_t>(out.values.size());
      py::array values = empty(numpy().float64, n), segments = empty(numpy().float64, n, 2);
      std::copy(out.values.begin(), out.values.end(), static_cast<double*>(values.mutable_data()));
      std::copy(out.segments.begin(), out.segments.end(), static_cast<double*>(segments.mutable_data()));
      const py::array labels = names_.of(n, out.one_class, [&](std::int32_t i) { return out.labels[i]; });
      results.append(result_.of(labels, values, segments, py::reinterpret_borrow<py::tuple>(videos[b])[5]));
    }
    return results;
  }

 private:
  // Whether there is a name for each class, and a grid of so many segments can be counted.
  bool holds(const Input& in) const {
    return in.width == names_.width() && in.length <= aicl::kMostPoints / settings_.upscale;
  }

  // A plan large enough, taken from the idle ones or made, and given back at the end.
  class Lease {
   public:
    Lease(Decoder& owner, std::int64_t length) : owner_(owner), plan_(owner.take(length)) {}
    ~Lease() { owner_.give_back(std::move(plan_)); }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    aicl::Plan& plan() { return *plan_; }
    aicl_decode_status run(const Input& in) noexcept {
      plan_->set_times(in.fps, in.frames_per_segment);
      return in.is_float ? plan_->run(static_cast<const float*>(in.scores),
                                      static_cast<const float*>(in.video_scores), in.length, in.width,
                                      in.num_segments)
                         : plan_->run(static_cast<const double*>(in.scores),
                                      static_cast<const double*>(in.video_scores), in.length, in.width,
                                      in.num_segments);
    }
    // The same by plans with room for more proposals, until one has enough.
    aicl_decode_status run_larger(const Input& in) {
      aicl_decode_settings settings = owner_.settings_for(in.length);
      aicl_decode_status status = AICL_DECODE_TOO_LARGE;
      for (std::int64_t room = kProposals; status == AICL_DECODE_TOO_LARGE && room < aicl::kMostPoints;) {
        room = std::min<std::int64_t>(room * 8, aicl::kMostPoints);
        settings.max_proposals = static_cast<std::int32_t>(room - 1);
        plan_.reset();
        plan_ = std::make_unique<aicl::Plan>(settings);
        status = run(in);
      }
      return status;
    }

   private:
    Decoder& owner_;
    std::unique_ptr<aicl::Plan> plan_;
  };

  // Settings of a plan for videos up to this length.
  aicl_decode_settings settings_for(std::int64_t length) const {
    aicl_decode_settings settings = settings_;
    settings.max_segments = static_cast<std::int32_t>(std::min<std::int64_t>(length, INT32_MAX));
    if (const char* wrong = aicl::Plan::check(settings)) throw std::invalid_argument(wrong);
    return settings;
  }

  std::unique_ptr<aicl::Plan> take(std::int64_t length) {
    std::int64_t longest;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      longest = std::max(length, longest_);
      if (longest == longest_ && !idle_.empty()) {
        auto plan = std::move(idle_.back());
        idle_.pop_back();
        return plan;
      }
    }
    std::unique_ptr<aicl::Plan> plan;
    try {
      plan = std::make_unique<aicl::Plan>(settings_for(longest));
    } catch (const std::bad_alloc&) {
      // Too much for another one as long as the longest, perhaps not for this one.
      return std::make_unique<aicl::Plan>(settings_for(length));
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    if (longest > longest_) idle_.clear();
    longest_ = std::max(longest, longest_);
    return plan;
  }

  void give_back(std::unique_ptr<aicl::Plan> plan) {
    const std::lock_guard<std::mutex> lock(mutex_);
    // One that was made for smaller videos would fail the next.
    if (plan != nullptr && plan->fits(longest_, names_.width()) && idle_.size() < kIdle) idle_.push_back(std::move(plan));
  }

  void run_all(const std::vector<Input>& inputs, std::vector<Output>& outputs, std::int64_t length, int threads) {
    std::atomic<std::size_t> next{0};
    std::exception_ptr thrown;
    std::mutex thrown_mutex;
    const auto work = [&]() noexcept {
      try {
        Lease lease(*this, length);
        for (std::size_t i = next++; i < inputs.size(); i = next++) {
          Output& out = outputs[i];
          out.status = lease.run(inputs[i]);
          if (out.status == AICL_DECODE_TOO_LARGE) out.status = lease.run_larger(inputs[i]);
          if (out.status != AICL_DECODE_OK) {
            out.error = lease.plan().error();
            continue;
          }
          const auto n = static_cast<std::size_t>(lease.plan().count());
          out.one_class = lease.plan().one_class();
          out.labels.resize(n);
          for (std::size_t i = 0; i < n; ++i) out.labels[i] = lease.plan().label(static_cast<std::int32_t>(i));
          out.values.resize(n);
          out.segments.resize(2 * n);
          lease.plan().write(static_cast<std::int32_t>(n), out.values.data(), out.segments.data());
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
  // A plan has room for as many proposals at first: 100 MB, of which only what is written to is ever had.
  static constexpr std::int32_t kProposals = 1 << 20;

  Result result_;
  Names names_;
  std::vector<double> thresholds_;
  aicl_decode_settings settings_;
  std::mutex mutex_;
  // The most segments there were yet; every idle plan holds as many.
  std::int64_t longest_ = 1;
  std::vector<std::unique_ptr<aicl::Plan>> idle_;
};

using Shared = std::shared_ptr<Decoder>;

constexpr const char* kNoMemory =
    "not enough memory to decode: fewer segments or classes at once, a lower upscale, or fewer thresholds.";

// Decoder.decode as CPython calls its own functions: pybind11's way of finding out what is called, and with
// what, takes as long as a sixth of a small video.
PyObject* decode_quickly(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  try {
    if (count != 6) {
      throw std::invalid_argument("expected scores, video_scores, num_segments, fps, frames_per_segment, video");
    }
    const auto& decoder = *static_cast<Shared*>(PyCapsule_GetPointer(self, nullptr));
    return decoder->decode(arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5])
        .release()
        .ptr();
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const std::bad_alloc&) {
    PyErr_SetString(PyExc_MemoryError, kNoMemory);
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  }
  return nullptr;
}

PyMethodDef decode_method = {
    "decode", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&decode_quickly)), METH_FASTCALL,
    "(scores, video_scores, num_segments, fps, frames_per_segment, video): the result for one video. None for input "
    "that is not as it has to be, and where a score is not finite."};

py::object decode_of(const Shared& decoder) {
  const py::capsule self(new Shared(decoder), [](void* shared) { delete static_cast<Shared*>(shared); });
  return py::reinterpret_steal<py::object>(PyCFunction_New(&decode_method, self.ptr()));
}

}  // namespace

PYBIND11_MODULE(_native, module) {
  py::register_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const std::bad_alloc&) {
      PyErr_SetString(PyExc_MemoryError, kNoMemory);
    }
  });
  module.doc() = "Native decoding for aicl_fast.";
  module.def("version", &aicl_decode_version);
  py::class_<Decoder, Shared>(module, "Decoder")
      .def(py::init<const std::vector<double>&, double, int, double, double, double, double, double, int, double,
                    double, double, bool, double, int, const py::object&, py::type>(),
           py::kw_only(), py::arg("thresholds"), py::arg("class_threshold"), py::arg("upscale"),
           py::arg("merge_gap"), py::arg("min_seconds"), py::arg("outer_ratio"), py::arg("video_score_weight"),
           py::arg("density_weight"), py::arg("nms"), py::arg("nms_tiou"), py::arg("nms_sigma"),
           py::arg("nms_added_seconds"), py::arg("nms_across_classes"), py::arg("min_score"),
           py::arg("max_detections"), py::arg("classes"), py::arg("result"))
      .def_property_readonly("decode", &decode_of)
      .def("decode_batch", &Decoder::decode_batch,
           "The same for tuples of these six, on so many threads.");
}
