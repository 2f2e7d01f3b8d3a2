"""Classification: losses over logits, of the labels and of the teacher's answers."""

import math

import torch
from torch.nn import functional as F

from edgekd.distill.losses.loss import UNLABELLED, Loss, Signals, both_outputs, how_many, mean_of_known
from edgekd.distill.schedules import Number, at

FLAT = 1e-6
"""A row of probabilities whose deviations from its mean have a norm below this says nothing but rounding."""


def hard() -> Loss:
    """Cross entropy with the labels, the mean over the labelled samples; 0 where there is none.

    Logits (N, classes), labels (N,).
    """

    def compute(signals: Signals) -> torch.Tensor:
        total = F.cross_entropy(signals.student, signals.labels, ignore_index=UNLABELLED, reduction="sum")
        return total / how_many(signals.labels != UNLABELLED, signals.labelled)

    return Loss(compute)


def soft(temperature: Number) -> Loss:
    """T² KL(teacher_T || student_T), the mean over the batch (Hinton et al. 2015, section 2.1).

    Both distributions are softened with T; the factor T² keeps the size of the gradients as T changes.
    Logits (N, classes) of both.
    """

    def compute(signals: Signals) -> torch.Tensor:
        student, teacher = _log_probabilities(signals, temperature)
        return at(temperature, signals.progress) ** 2 * _divergence(teacher, student)

    return Loss(compute, needs_teacher=True)


def soft_cross_entropy(temperature: Number) -> Loss:
    """-sum_k p_k log q_k with p and q softened with T, the mean over the batch (Hinton et al. 2015, section 2).

    Without the factor T², as the paper first writes it: the gradient for student logit k is (q_k - p_k) / T, which for
    a large T and zero-mean logits z of the student, v of the teacher, tends to (z_k - v_k) / (classes T²) (its
    equations 2 to 4). Logits (N, classes) of both.
    """

    def compute(signals: Signals) -> torch.Tensor:
        _, teacher = both_outputs(signals)
        softness = at(temperature, signals.progress)
        return cross_entropy_with(F.softmax(teacher / softness, dim=1), signals.student, softness)

    return Loss(compute, needs_teacher=True)


def cross_entropy_with(probabilities: torch.Tensor, logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """-sum_k p_k log softmax(z / T)_k, the mean over the batch, for probabilities p, (N, classes), as they are."""
    return -(probabilities * F.log_softmax(logits / temperature, dim=1)).sum(dim=1).mean()


def hard_distillation() -> Loss:
    """Cross entropy with the class that the teacher finds likeliest, for every sample, labelled or not.

    The teacher's half of equation 3 in Touvron et al. 2021; the paper adds the hard loss with the same weight.
    Logits (N, classes) of both.
    """

    def compute(signals: Signals) -> torch.Tensor:
        student, teacher = both_outputs(signals)
        return F.cross_entropy(student, teacher.argmax(dim=1))

    return Loss(compute, needs_teacher=True)


def logits_mse() -> Loss:
    """Mean over batch and classes of the squared difference of the logits (Ba & Caruana 2014).

    The mean instead of the paper's half sum; for zero-mean logits half of it is what `soft` tends to as T grows.
    Logits (N, classes) of both; of classes or of the labels of a multi-label task.
    """
    return Loss(lambda signals: F.mse_loss(*both_outputs(signals)), needs_teacher=True)


def forward_kl(temperature: Number = 1.0) -> Loss:
    """KL(teacher_T || student_T), the mean over the batch: covers all that the teacher finds likely.

    `soft` without its factor T²; named so beside its reverse in Gu et al. 2023. Logits (N, classes) of both.
    """

    def compute(signals: Signals) -> torch.Tensor:
        student, teacher = _log_probabilities(signals, temperature)
        return _divergence(teacher, student)

    return Loss(compute, needs_teacher=True)


def reverse_kl(temperature: Number = 1.0) -> Loss:
    """KL(student_T || teacher_T), the mean over the batch: seeks the teacher's largest mode (Gu et al. 2023).

    Without a factor T². Logits (N, classes) of both.
    """

    def compute(signals: Signals) -> torch.Tensor:
        student, teacher = _log_probabilities(signals, temperature)
        return _divergence(student, teacher)

    return Loss(compute, needs_teacher=True)


def jensen_shannon(mixing: float = 0.5, temperature: Number = 1.0) -> Loss:
    """b KL(p || m) + (1 - b) KL(q || m) with m = b p + (1 - b) q, the mean over the batch (Agarwal et al. 2023).

    p is the teacher's distribution, q the student's, both softened with T; b, between 0 and 1, is the mixing weight:
    divided by b (by 1 - b) it tends to the forward (the reverse) KL as b (as 1 - b) tends to 0. At most ln 2.
    Logits (N, classes) of both.
    """

    def compute(signals: Signals) -> torch.Tensor:
        student, teacher = _log_probabilities(signals, temperature)
        middle = torch.logaddexp(teacher + math.log(mixing), student + math.log(1.0 - mixing))
        return mixing * _divergence(teacher, middle) + (1.0 - mixing) * _divergence(student, middle)

    return Loss(compute, needs_teacher=True)


def dkd(alpha: float, beta: float, temperature: Number) -> Loss:
    """T² (alpha TCKD + beta NCKD), the mean over the labelled samples (Zhao et al. 2022, equation 7).

    TCKD is the KL between the teacher's and the student's (p_label, 1 - p_label), NCKD the KL between their
    distributions over the other classes, all softened with T. It splits at the label, so samples without one are
    skipped and a batch without any gives 0: on unlabelled data add a loss that needs none. Two classes have no NCKD.
    Logits (N, classes) of both, labels (N,).
    """

    def compute(signals: Signals) -> torch.Tensor:
        student, teacher = _log_probabilities(signals, temperature)
        target = signals.labels[:, None] == torch.arange(student.shape[1], device=student.device)
        q, q_rest, q_others = _split(student, target)
        p, p_rest, p_others = _split(teacher, target)
        tckd = p.exp() * (p - q) + p_rest.exp() * (p_rest - q_rest)
        nckd = (p_others.exp() * (p_others - q_others)).masked_fill(target, 0.0).sum(dim=1)
        scale = at(temperature, signals.progress) ** 2
        each = alpha * tckd + beta * nckd
        return scale * mean_of_known(each, signals.labels != UNLABELLED, signals.labelled)

    return Loss(compute, needs_teacher=True)


def _split(logs: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logarithms of p_target and 1 - p_target, (N,), and of each class among the others, (N, classes)."""
    rest = logs.masked_fill(target, -math.inf).logsumexp(dim=1)
    return logs.masked_fill(~target, 0.0).sum(dim=1), rest, logs - rest[:, None]


def dist(beta: float = 1.0, gamma: float = 1.0, temperature: Number = 1.0) -> Loss:
    """T² (beta inter + gamma intra): relations instead of values (Huang et al. 2022).

    inter is the mean over samples of 1 - Pearson's correlation over the classes, intra the mean over classes of
    1 - the correlation over the batch, both between the softened probabilities; the factor T² is that of the authors'
    code. Where the teacher's numbers are all the same, as of every class in a batch of one, there is no relation to
    learn and the row is left out; where only the student's are, it counts as uncorrelated. Logits (N, classes) of both.
    """

    def compute(signals: Signals) -> torch.Tensor:
        student, teacher = (logs.exp() for logs in _log_probabilities(signals, temperature))
        inter, intra = _unlikeness(student, teacher), _unlikeness(student.T, teacher.T)
        return at(temperature, signals.progress) ** 2 * (beta * inter + gamma * intra)

    return Loss(compute, needs_teacher=True)


def _unlikeness(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """The mean over rows of 1 - Pearson's correlation."""
    student, teacher = (rows - rows.mean(dim=1, keepdim=True) for rows in (student, teacher))
    sizes = student.norm(dim=1), teacher.norm(dim=1)
    known = (sizes[0] > FLAT) & (sizes[1] > FLAT)
    correlation = (student * teacher).sum(dim=1) / torch.where(known, sizes[0] * sizes[1], math.inf)
    return mean_of_known(1.0 - correlation, sizes[1] > FLAT)


def _log_probabilities(signals: Signals, temperature: Number) -> tuple[torch.Tensor, torch.Tensor]:
    student, teacher = both_outputs(signals)
    softness = at(temperature, signals.progress)
    return F.log_softmax(student / softness, dim=1), F.log_softmax(teacher / softness, dim=1)


def _divergence(of: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
    """KL(of || to) of logarithms of probabilities, (N, classes), the mean over the batch."""
    return F.kl_div(to, of, log_target=True, reduction="batchmean")
