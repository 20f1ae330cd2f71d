"""One torch module for a whole bundle: photos of its geometries in, probabilities out. It is what is exported.

Normalisation, members, joins, the ensemble's weights, the temperature and the decision rule are inside, as
`maskcls.serving.torch_engine` and `maskcls.serving.decision` compute them with numpy. n photos, s the edge of a square
in px, k labels of a task.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from maskcls.labels import N_CLASSES
from maskcls.serving.bundle import Bundle, Classifier
from maskcls.serving.marginals import TASKS
from maskcls.task_split import TaskSplit
from maskcls.tasks import task


class BundleGraph(nn.Module):
    """The bundle as one function of uint8 RGB photos, (n, s, s, 3) for each of its geometries.

    It returns the 18 probabilities (n, 18) and those of mask (n, 3), gender (n, 2) and age group (n, 3), in float32,
    and the class (n,), in int64, that the decision rule makes of the 18.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        geometries = list(dict.fromkeys(each.geometry for each in bundle.classifiers))
        self.parts = nn.ModuleList(_ClassifierGraph(each) for each in bundle.classifiers)
        self._input_of = [geometries.index(each.geometry) for each in bundle.classifiers]
        self._weights = [each.weight for each in bundle.classifiers]
        self._temperature = bundle.temperature
        self._decision = bundle.decision
        self._labels = {key: task(name).labels for key, name in TASKS.items()}

    def forward(self, *photos: Tensor) -> tuple[Tensor, ...]:
        """Photos (n, s, s, 3) for each geometry -> probabilities (n, 18), (n, 3), (n, 2), (n, 3), classes (n,)."""
        together = torch.stack(
            [
                weight * part(photos[at]).exp()
                for part, at, weight in zip(self.parts, self._input_of, self._weights, strict=True)
            ]
        ).sum(0)  # (n, 18)
        classes = self._decide(together)
        if self._temperature != 1:
            together = (together.log() / self._temperature).softmax(1)
        # Sums, not a product of matrices, which a graph in 8-bit integers would round.
        marginals = [
            torch.stack(
                [
                    together[:, [c for c in range(N_CLASSES) if labels[c] == label]].sum(1)
                    for label in sorted(set(labels))
                ],
                dim=1,
            )
            for labels in self._labels.values()
        ]
        return *(each.float() for each in (together, *marginals)), classes

    def _decide(self, probabilities: Tensor) -> Tensor:
        """Probabilities (n, 18), before the temperature -> classes (n,)."""
        if self._decision is None:
            return probabilities.argmax(1)
        prior = torch.tensor(self._decision.log_prior, dtype=probabilities.dtype, device=probabilities.device)
        return (probabilities.log() - self._decision.tau * prior).argmax(1)


class _ClassifierGraph(nn.Module):
    """One classifier: photos (n, s, s, 3) -> log probabilities (n, 18)."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.models = nn.ModuleList(classifier.models)
        self._split = classifier.task_split
        self._join = {"soft": _soft_join, "hard": _hard_join}[classifier.recipe.join]

    def forward(self, photos: Tensor) -> Tensor:
        # In float64 from the logits on, as with torch: joins add logarithms up.
        members = [logits.double().log_softmax(1) for model in self.models for logits in model(photos)]  # (n, k) each
        return self._join(self._split, members)


def _soft_join(split: TaskSplit, members: list[Tensor]) -> Tensor:
    """`task_split.soft_join`: the sum of the members' log probabilities (n, k) of each class's labels, normalised."""
    summed = torch.stack([member[:, list(each.labels)] for each, member in zip(split.tasks, members, strict=True)]).sum(
        0
    )  # (n, 18)
    return summed.log_softmax(1)


def _hard_join(split: TaskSplit, members: list[Tensor]) -> Tensor:
    """`task_split.hard_join`: one member after the other decides, advisers first, among labels that are possible."""
    possible = torch.ones_like(members[0][:, :1]).expand(-1, N_CLASSES) > 0  # (n, 18)
    pairs = list(zip(split.tasks, members, strict=True))
    for each, member in sorted(pairs, key=lambda pair: pair[0] not in split.advisers):
        labels = torch.tensor(each.labels, device=member.device)  # (18,)
        of_label = torch.nn.functional.one_hot(labels, each.n_labels).to(member.dtype)  # (18, k)
        allowed = possible.to(member.dtype) @ of_label > 0  # (n, k)
        # Above all that is not allowed, even where an allowed label has the log probability -inf.
        ranked = torch.where(allowed, member.clamp(min=-1e300), torch.full_like(member, -torch.inf))
        chosen = ranked.argmax(1, keepdim=True)  # (n, 1)
        possible = possible & (labels[None, :] == chosen)
    return torch.where(possible, 0.0, -torch.inf).to(members[0].dtype)
