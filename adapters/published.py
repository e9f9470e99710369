"""Hyper-parameters that the authors of a method set for each data set: what to give in place of its defaults there.

From the configuration files of gaopengcuhk/Tip-Adapter at d0e2d6f (`init_alpha`), yangyangyang127/APE
(`training_free_feat_num` of 1024 channels, `w_training_free`; trained: `init_alpha`, `training_feat_num`) and
geekyutao/TaskRes (alpha on Flowers).
"""

from __future__ import annotations

from collections.abc import Mapping

PUBLISHED: Mapping[str, Mapping[str, Mapping[str, float]]] = {  # adapter -> data set -> option -> value
    "tip-adapter-f": {
        "caltech101": {"start_alpha": 3.0},
        "dtd": {"start_alpha": 2.0},
        "eurosat": {"start_alpha": 2.0},
        "fgvc_aircraft": {"start_alpha": 5.0},
        "food101": {"start_alpha": 1.17},
        "imagenet": {"start_alpha": 1.17},
        "oxford_flowers": {"start_alpha": 10.0},
        "oxford_pets": {"start_alpha": 1.17},
        "stanford_cars": {"start_alpha": 3.0},
        "sun397": {"start_alpha": 1.17},
        "ucf101": {"start_alpha": 3.0},
    },
    "ape": {
        "caltech101": {"share": 800 / 1024, "similarity": 0.5},
        "dtd": {"share": 400 / 1024, "similarity": 0.5},
        "eurosat": {"share": 700 / 1024, "similarity": 0.9},
        "fgvc_aircraft": {"share": 800 / 1024, "similarity": 0.1},
        "food101": {"share": 700 / 1024, "similarity": 0.3},
        "imagenet": {"share": 500 / 1024, "similarity": 0.7},
        "oxford_flowers": {"share": 700 / 1024, "similarity": 0.4},
        "oxford_pets": {"share": 800 / 1024, "similarity": 0.7},
        "stanford_cars": {"share": 500 / 1024, "similarity": 0.6},
        "sun397": {"share": 800 / 1024, "similarity": 0.7},
        "ucf101": {"share": 700 / 1024, "similarity": 0.3},
    },
    "ape-t": {
        "caltech101": {"start_alpha": 1.0, "share": 900 / 1024},
        "dtd": {"start_alpha": 3.0, "share": 700 / 1024},
        "eurosat": {"start_alpha": 1.0, "share": 900 / 1024},
        "fgvc_aircraft": {"start_alpha": 5.0, "share": 900 / 1024},
        "food101": {"start_alpha": 0.8, "share": 900 / 1024},
        "imagenet": {"start_alpha": 2.0, "share": 500 / 1024},
        "oxford_flowers": {"start_alpha": 3.0, "share": 800 / 1024},
        "oxford_pets": {"start_alpha": 2.0, "share": 800 / 1024},
        "stanford_cars": {"start_alpha": 1.0, "share": 800 / 1024},
        "sun397": {"start_alpha": 1.0, "share": 800 / 1024},
        "ucf101": {"start_alpha": 2.0, "share": 800 / 1024},
    },
    "taskres": {"oxford_flowers": {"alpha": 1.0}},
}


def published_options(adapter: str, dataset: str) -> Mapping[str, float]:
    """What the authors of `adapter` set for `dataset`; nothing where they keep to one value for all."""
    return PUBLISHED.get(adapter, {}).get(dataset, {})
