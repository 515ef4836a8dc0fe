/* Temporal action detections from the scores of an AICL network: the C interface.
 *
 *     aicl_decode_settings settings;
 *     aicl_decode_settings_init(&settings);             // THUMOS14's
 *     settings.max_classes = 20;
 *     aicl_decode_plan* plan = NULL;
 *     char why[256];
 *     if (aicl_decode_plan_create(&settings, &plan, why, sizeof why) != AICL_DECODE_OK) { puts(why); ... }
 *     aicl_decode(plan, scores, video_scores, 750, 20, 900, labels, values, segments, capacity, &count);
 *     aicl_decode_plan_destroy(plan);
 *
 * A plan owns all memory that decoding needs, so aicl_decode allocates nothing. It belongs to one thread at
 * a time; make one for each thread. No C++ exception leaves these functions.
 */
#ifndef AICL_DECODE_H
#define AICL_DECODE_H

#include <stddef.h>
#include <stdint.h>

#if defined(AICL_DECODE_STATIC)
#define AICL_DECODE_API
#elif defined(_WIN32) && defined(AICL_DECODE_BUILDING)
#define AICL_DECODE_API __declspec(dllexport)
#elif defined(_WIN32)
#define AICL_DECODE_API __declspec(dllimport)
#else
#define AICL_DECODE_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum aicl_decode_status {
  AICL_DECODE_OK = 0,
  AICL_DECODE_BAD_ARGUMENT = 1,  /* a null pointer, or a size that has no meaning */
  AICL_DECODE_BAD_SETTINGS = 2,  /* a setting out of its range */
  AICL_DECODE_TOO_LARGE = 3,     /* more segments, classes or proposals than the plan was made for */
  AICL_DECODE_NOT_FINITE = 4,    /* a score is NaN, infinite or above 1e38 */
  AICL_DECODE_SMALL_BUFFER = 5,  /* more detections than `capacity`: the best ones were written */
  AICL_DECODE_NO_MEMORY = 6
} aicl_decode_status;

typedef enum aicl_decode_nms {
  AICL_DECODE_DECAY_ONCE = 0, /* suppressed once, score * exp(-tIoU^2 / sigma), and kept */
  AICL_DECODE_HARD = 1,       /* suppressed and dropped */
  AICL_DECODE_GAUSSIAN = 2    /* soft-NMS, ranked again (Bodla et al. 2017) */
} aicl_decode_nms;

/* Set by aicl_decode_settings_init, which has to come first: it also marks the version of this layout. */
typedef struct aicl_decode_settings {
  uint32_t struct_size;
  int32_t num_thresholds;
  const double* thresholds;   /* copied by plan_create; any order, equal ones count once */
  double class_threshold;     /* classes with at least this video score are localised, else the best */
  double outer_ratio;         /* lambda */
  double video_score_weight;  /* share of the video score added to a proposal's score */
  double nms_tiou;
  double nms_sigma;
  double nms_added_seconds;   /* added to lengths and intersections: 1 as in the authors' code, 0 is the plain tIoU */
  double min_score;           /* AICL_DECODE_GAUSSIAN drops what decays below this */
  double fps;
  int32_t frames_per_segment;
  int32_t upscale;            /* grid points a segment, 1 to 10000 */
  int32_t nms;                /* aicl_decode_nms */
  int32_t nms_across_classes; /* 0: each class on its own */
  int32_t max_detections;     /* a video; 0 for all */
  int32_t max_segments;       /* largest T that the plan will be given */
  int32_t max_classes;        /* largest C */
  int32_t max_proposals;      /* 0 for as many as there can be: classes * thresholds * (T/2 + 1) */
  double merge_gap;           /* seconds; runs of a threshold that are no further apart are one; 0: off */
  double min_seconds;         /* shorter proposals are dropped, before they are scored; 0: off */
  double density_weight;      /* of the mean tIoU with the ten nearest proposals of the class, added to a score */
} aicl_decode_settings;

typedef struct aicl_decode_plan aicl_decode_plan;

/* THUMOS14's settings; thresholds point to memory that stays. */
AICL_DECODE_API void aicl_decode_settings_init(aicl_decode_settings* settings);

/* Make a plan. On failure *plan is NULL and `why`, if not NULL, has a sentence. */
AICL_DECODE_API aicl_decode_status aicl_decode_plan_create(const aicl_decode_settings* settings,
                                                           aicl_decode_plan** plan, char* why,
                                                           size_t why_size);
AICL_DECODE_API void aicl_decode_plan_destroy(aicl_decode_plan* plan);

/* Detections a call can give at most: a capacity that is always enough. */
AICL_DECODE_API int64_t aicl_decode_plan_capacity(const aicl_decode_plan* plan);

/* Decode one video.
 *
 * scores        (num_rows, num_classes) row-major, A_score of T = num_rows segments
 * video_scores  (num_classes)
 * num_segments  the video's own number of segments, before it was sampled to T
 * labels        (capacity) out: class indices
 * values        (capacity) out: scores, descending
 * segments      (capacity, 2) out: start and end in seconds
 * count         out: detections found, which may exceed `capacity`
 *
 * The three buffers may be NULL when capacity is 0.
 */
AICL_DECODE_API aicl_decode_status aicl_decode(aicl_decode_plan* plan, const float* scores,
                                               const float* video_scores, int64_t num_rows,
                                               int64_t num_classes, int64_t num_segments, int32_t* labels,
                                               double* values, double* segments, int64_t capacity,
                                               int64_t* count);
AICL_DECODE_API aicl_decode_status aicl_decode_f64(aicl_decode_plan* plan, const double* scores,
                                                   const double* video_scores, int64_t num_rows,
                                                   int64_t num_classes, int64_t num_segments,
                                                   int32_t* labels, double* values, double* segments,
                                                   int64_t capacity, int64_t* count);

/* ---- recordings longer than those of training ----------------------------------------------------------
 *
 * Such a recording is scored in overlapping windows, each sampled to T as a recording of its own. A blend joins
 * their curves into one of every segment, which aicl_decode then takes with num_rows = num_segments.
 *
 *     aicl_blend_settings settings;
 *     aicl_blend_settings_init(&settings);
 *     settings.num_segments = n;                        // and num_classes, window, hop, samples, fusion_gamma
 *     aicl_blend_create(&settings, &blend, why, sizeof why);
 *     for (i = 0; i < aicl_blend_windows(blend); ++i) {
 *       start = aicl_blend_start(blend, i);             // run the network on segments start to start + window
 *       aicl_blend_add(blend, i, scores, video_scores, actionness_agnostic);
 *     }
 *     aicl_blend_finish(blend, all_scores, all_video_scores);
 *
 * A blend belongs to one thread at a time.
 */
typedef struct aicl_blend_settings {
  uint32_t struct_size;
  int32_t num_classes;   /* C */
  int64_t num_segments;  /* n, the recording's; at least a window's */
  int64_t window;        /* segments of a window, at least 3 */
  int64_t hop;           /* segments from one window's start to the next one's, at most `window` */
  int64_t samples;       /* T, what the network was given of each window */
  double fusion_gamma;   /* the model's; 0 takes the windows' video scores as class scores */
  double class_power;    /* the scores are multiplied by the class score of the moment to this power */
  int32_t class_span;    /* segments that a moment's class score is averaged over, odd */
  int32_t reserved;      /* 0 */
} aicl_blend_settings;

typedef struct aicl_blend aicl_blend;

/* THUMOS14's sizes, and the class settings of aicl_fast. num_segments is left at 0. */
AICL_DECODE_API void aicl_blend_settings_init(aicl_blend_settings* settings);

/* Make a blend, with memory for n (C + 2) numbers. On failure *blend is NULL and `why` has a sentence. */
AICL_DECODE_API aicl_decode_status aicl_blend_create(const aicl_blend_settings* settings, aicl_blend** blend,
                                                     char* why, size_t why_size);
AICL_DECODE_API void aicl_blend_destroy(aicl_blend* blend);

/* The number of windows, and the first segment of one; -1 for an index that is none. */
AICL_DECODE_API int64_t aicl_blend_windows(const aicl_blend* blend);
AICL_DECODE_API int64_t aicl_blend_start(const aicl_blend* blend, int64_t index);

/* Add a window's curves, each window once, in any order.
 *
 * scores               (samples, num_classes) row-major
 * video_scores         (num_classes)
 * actionness_agnostic  (samples)
 */
AICL_DECODE_API aicl_decode_status aicl_blend_add(aicl_blend* blend, int64_t index, const float* scores,
                                                  const float* video_scores, const float* actionness_agnostic);

/* Write the recording's scores (num_segments, num_classes) and video scores (num_classes), once every window
 * was added. Allocates as much as `scores` takes. */
AICL_DECODE_API aicl_decode_status aicl_blend_finish(const aicl_blend* blend, float* scores, float* video_scores);

/* What went wrong in the plan's last call, as a sentence; empty after AICL_DECODE_OK. */
AICL_DECODE_API const char* aicl_decode_error(const aicl_decode_plan* plan);
AICL_DECODE_API const char* aicl_decode_status_text(aicl_decode_status status);
/* The library's version, for example "0.1.0". */
AICL_DECODE_API const char* aicl_decode_version(void);

#ifdef __cplusplus
}
#endif
#endif
