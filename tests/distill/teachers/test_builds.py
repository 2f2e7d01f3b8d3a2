"""Whole builds from teachers that are no torch modules of edgekd's."""

import json
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordLevelTrainer

from tests.conftest import edgekd, overrides
from tests.distill.teachers.files import onnx_file
from tests.distill.teachers.small import WORDS

NAMES = ("poor", "middling", "great")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def sentences(count: int, seed: int) -> tuple[list[str], np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    return [f"a {WORDS[label][random.integers(2)]} film, number {random.integers(20)}" for label in labels], labels


def write_task(folder: Path) -> None:
    folder.mkdir()
    for seed, (name, count) in enumerate([("train", 400), ("test", 240)]):
        lines = [f"{sentence}\t{label}\n" for sentence, label in zip(*sentences(count, seed), strict=True)]
        (folder / f"{name}.tsv").write_text("".join(lines))


def write_bert(folder: Path) -> None:
    """A small BERT that knows the task, with a tokenizer of its own and the classes in another order."""
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words, labels = sentences(600, 7)
    own = Tokenizer(WordLevel(unk_token="[UNK]"))
    own.normalizer, own.pre_tokenizer = Lowercase(), Whitespace()
    own.train_from_iterator(words, WordLevelTrainer(special_tokens=SPECIAL, show_progress=False))
    marks = [(mark, own.token_to_id(mark)) for mark in ("[CLS]", "[SEP]")]
    own.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=marks)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=own, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    order = NAMES[::-1]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertForSequenceClassification(
            BertConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=32,
                max_position_embeddings=16,
                initializer_range=0.2,
                id2label=dict(enumerate(order)),
                label2id={name: place for place, name in enumerate(order)},
            )
        )
        given, wanted = tokenizer(words, padding=True, return_tensors="pt"), torch.from_numpy(2 - labels)
        optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
        for rows in torch.randperm(12 * len(words)).remainder(len(words)).split(64):
            optimizer.zero_grad()
            model(given["input_ids"][rows], given["attention_mask"][rows], labels=wanted[rows]).loss.backward()
            optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def test_a_bert_teaches_a_textcnn_that_ends_as_an_int8_file(tmp_path: Path) -> None:
    write_task(tmp_path / "task")
    write_bert(tmp_path / "bert")
    settings = (
        "task.data=task",
        "teacher.folder=bert",
        f"task.args.names={json.dumps(NAMES)}",
        "task.length=8",
        "task.vocabulary=40",
        "task.augment.views=2",
        "student.args={ width = 24, channels = 16 }",
        "distill.train.epochs=20",
        "distill.train.batch_size=16",
        "distill.train.learning_rate=5e-3",
        "quantize.train.epochs=4",
        "quantize.train.batch_size=16",
        "measure.protocol=rapid",
        "budgets.below_teacher=10",
        "budgets.below_student=5",
    )
    arguments = ("build", "--recipe", "bert-to-textcnn", "--target", "tflite-arm", "--json", *overrides(settings))
    run = edgekd(tmp_path, *arguments)
    assert run.code == 0, run.stderr
    artifact = run.document["artifacts"][0]
    assert artifact["accuracy"]["teacher"] > 0.95
    assert artifact["accuracy"]["exported"] > 0.9
    assert artifact["quantizers"]["exact"] == artifact["quantizers"]["learned"] > 0
    home = tmp_path / "build" / "bert-to-textcnn"
    report = json.loads((home / "report.json").read_text())
    assert (report["teacher"]["model"], report["teacher"]["macs"]) == ("transformers", None)
    assert report["teacher"]["params"] > 1000
    assert "teacher (transformers)" in (home / "report.html").read_text()
    again = edgekd(tmp_path, *arguments)
    assert all(step["cached"] for step in again.document["steps"])


def test_a_teacher_of_another_shape_stops_a_build_before_it_trains(tmp_path: Path) -> None:
    onnx_file(tmp_path / "teacher.onnx")
    text = (Path(__file__).parents[3] / "edgekd" / "recipes" / "digits.toml").read_text()
    head, _, tail = text.partition("[teacher]")
    table = '[teacher]\nkind = "onnx"\nfile = "teacher.onnx"\n\n'
    (tmp_path / "edgekd.toml").write_text(head + table + tail[tail.index("[student]") :])
    run = edgekd(tmp_path, "build", "--target", "tflite-arm", "--json")
    assert run.code == 2
    last = run.stderr.splitlines()[-1]
    assert last.startswith(
        "edgekd: teacher: the file takes samples of shape (2, 6, 5) as 'images', these have (1, 8, 8)"
    )
    assert "student" not in run.stderr
