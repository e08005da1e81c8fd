"""Random real images with the labels that a trained network gives them.

Qin, Deng and Alvarez-Melis, "A Label is Worth a Thousand Images in Dataset Distillation", NeurIPS 2024, arXiv
2406.10485: what a set with soft labels has to beat. The images are those of `random`, the label of image x is

    y = softmax(f(theta, x))        [classes], temperature 1,

with theta the run's own network after `teacher_epochs` on the training split; x is not augmented.
"""

from typing import ClassVar

from condense.methods.base import MethodConfig, Need, Problem, register
from condense.methods.coreset import TaughtCoresetConfig
from condense.methods.random import Random
from condense.synthetic import State


@register
class RandomSoft(Random):
    name: ClassVar[str] = "random_soft"
    summary: ClassVar[str] = "the images of `random` with the probabilities that a trained network gives them"
    citation: ClassVar[str] = """@inproceedings{qin2024label,
  title = {A Label is Worth a Thousand Images in Dataset Distillation},
  author = {Qin, Tian and Deng, Zhiwei and Alvarez-Melis, David},
  booktitle = {NeurIPS}, year = {2024}, eprint = {2406.10485}, archivePrefix = {arXiv}}"""
    Config: ClassVar[type[MethodConfig]] = TaughtCoresetConfig
    needs: ClassVar[frozenset[Need]] = frozenset({Need.TEACHER})

    def init(self, problem: Problem) -> State:
        teacher, images = problem.teacher, super().init(problem)["images"]
        assert teacher is not None
        return {"images": images, "labels": problem.logits(teacher, images).softmax(1)}
