"""From the tables of a recipe to an objective."""

from collections.abc import Mapping, Sequence
from typing import assert_never

from edgekd.distill import balance, config, losses, schedules
from edgekd.distill.balance import Balance
from edgekd.distill.distiller import HARD, Objective
from edgekd.distill.losses import Loss
from edgekd.distill.schedules import Number


def build_objective(tables: config.ObjectiveConfig, outputs: config.Outputs = "classification") -> Objective:
    """The objective that the tables describe, for a model with such outputs.

    A loss is named by its kind; the second of a kind is `<kind>-2`, and so on. Layers that a model does not have are
    refused by the `Distiller`, which knows the models.

    Raises UsageError, with the reason, for a loss that makes no sense for such outputs, and for two stages without a
    loss for each.
    """
    config.check_outputs(tables, outputs)
    names = _names([table.kind for table in tables.losses])
    made = {name: _loss(table, outputs) for name, table in zip(names, tables.losses, strict=True)}
    weights = {name: _number(table.weight) for name, table in zip(names, tables.losses, strict=True)}
    return Objective(made, _balance(tables.balance, weights, made))


def _names(kinds: Sequence[str]) -> list[str]:
    counts = [kinds[:position].count(kind) for position, kind in enumerate(kinds, start=1)]
    return [kind if count == 1 else f"{kind}-{count}" for kind, count in zip(kinds, counts, strict=True)]


def _balance(table: config.BalanceTable, weights: Mapping[str, Number], made: Mapping[str, Loss]) -> Balance:
    match table:
        case config.Constant():
            return balance.weighted(weights)
        case config.Uncertainty():
            return balance.Uncertainty({name: schedules.at(weight, 0.0) for name, weight in weights.items()})
        case config.DynamicAverage(temperature=temperature):
            started = {name: schedules.at(weight, 0.0) for name, weight in weights.items()}
            return balance.DynamicAverage(started, temperature)
        case config.TwoStage(switch=switch):
            return balance.two_stage(weights, {n for n, loss in made.items() if loss.looks_at_teacher}, switch)
    assert_never(table)


def _loss(table: config.LossTable, outputs: config.Outputs) -> Loss:
    match table:
        case config.Hard():
            return HARD[outputs]()
        case config.HardL1():
            return losses.hard_l1()
        case config.Soft():
            return losses.soft(_number(table.temperature))
        case config.SoftCrossEntropy():
            return losses.soft_cross_entropy(_number(table.temperature))
        case config.HardDistillation():
            return losses.hard_distillation()
        case config.LogitsMse():
            return losses.logits_mse()
        case config.ForwardKl():
            return losses.forward_kl(_number(table.temperature))
        case config.ReverseKl():
            return losses.reverse_kl(_number(table.temperature))
        case config.JensenShannon():
            return losses.jensen_shannon(table.mixing, _number(table.temperature))
        case config.Dkd():
            return losses.dkd(table.alpha, table.beta, _number(table.temperature))
        case config.Dist():
            return losses.dist(table.beta, table.gamma, _number(table.temperature))
        case config.BinarySoft():
            wanted = table.temperature
            return losses.binary_soft(wanted if isinstance(wanted, tuple) else _number(wanted))
        case config.OutputMse():
            return losses.output_mse()
        case config.OutputL1():
            return losses.output_l1()
        case config.FeatureMse():
            return losses.feature_mse(table.student_layer, table.teacher_layer)
        case config.Hint():
            return losses.hint(table.student_layer, table.teacher_layer)
        case config.AttentionTransfer():
            return losses.attention_transfer(table.student_layer, table.teacher_layer)
        case config.RkdDistance():
            return losses.rkd_distance(table.student_layer, table.teacher_layer)
        case config.RkdAngle():
            return losses.rkd_angle(table.student_layer, table.teacher_layer)
        case config.SimilarityPreserving():
            return losses.similarity_preserving(table.student_layer, table.teacher_layer)
        case config.Adversarial():
            return losses.adversarial(table.student_layer, table.teacher_layer, table.hidden)
    assert_never(table)


def _number(value: float | config.AnnealedWeight | config.AnnealedTemperature) -> Number:
    if isinstance(value, float):
        return value
    return {"linear": schedules.linear, "cosine": schedules.cosine}[value.kind](value.start, value.end)
