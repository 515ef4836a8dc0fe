"""From scores to detections (docs/method.md, section 8): proposals above thresholds, contrast, NMS.

``decoder.py`` has the :class:`Decoder`, ``nms.py`` the table of NMS modes, ``fusion.py`` what comes before
it for the outputs of another program's network. Two backends give the same detections: ``native.py`` (C++,
when it was compiled at installation) and ``numba.py``. Neither is loaded before it is used.

All arithmetic is in float64, whatever the scores come in: a float32 score of 0.7 lies just below the
threshold 0.7.
"""
