"""A tokenizer's files are data: no code of theirs runs untrusted, no path of theirs is followed."""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from streaming import MDSWriter
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoTokenizer,
    BertTokenizer,
    BertTokenizerFast,
    PreTrainedTokenizerFast,
    __version__,
)

from mosaic_dataloader import MosaicDataError, StreamingTextDataset, build_mosaic_tokenizer
from mosaic_dataloader.reading.batch_tokenizer import BatchTokenizer
from mosaic_dataloader.reading.pretrained import load_pretrained

# All its tokenizers are fast, and it reads a complete definition whatever its class is called.
TRANSFORMERS_5 = int(__version__.partition(".")[0]) >= 5
DEFINITION = Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a")).to_str()
CODE = """
open({ran!r}, "w").write("x")
from transformers import PretrainedConfig, PreTrainedTokenizerFast
class MyTokenizer(PreTrainedTokenizerFast):
    pass
class MyConfig(PretrainedConfig):
    model_type = "mine"
"""
TOKENIZER = {"AutoTokenizer": [None, "code.MyTokenizer"]}
MODEL = {"AutoConfig": "code.MyConfig", "AutoModel": "code.MyConfig"}


def write(folder: Path, **files: Any) -> str:
    """A folder of files, each named without its suffix ``json``, besides a tokenizer's code."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "code.py").write_text(CODE.format(ran=str(folder / "RAN")))
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{name}.json").write_text(text)
    return str(folder)


@pytest.fixture
def nothing_asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    questions: list[object] = []

    def ask(*question: object) -> str:
        questions.append(question)
        return "y"

    monkeypatch.setattr("builtins.input", ask)
    yield
    assert questions == []


BRINGS_CODE = {
    "its own class": {"tokenizer_config": {"tokenizer_class": "Mine", "auto_map": TOKENIZER}},
    "the old form": {
        "tokenizer_config": {"tokenizer_class": "Mine", "auto_map": ["code.MyTokenizer", None]}
    },
    "no class": {"tokenizer_config": {"auto_map": TOKENIZER}},
    "in the model's configuration": {
        "config": {"model_type": "mine", "auto_map": {**MODEL, **TOKENIZER}}
    },
    "no definition": {
        "tokenizer": "",
        "config": {"model_type": "mine", "auto_map": MODEL},
    },
}


@pytest.mark.usefixtures("nothing_asked")
@pytest.mark.parametrize("case", BRINGS_CODE)
def test_code_is_refused_in_one_line_and_not_run(tmp_path: Path, case: str) -> None:
    files = {"tokenizer": DEFINITION, **BRINGS_CODE[case]}
    folder = write(tmp_path / "tok", **files)
    if not files["tokenizer"]:
        (tmp_path / "tok" / "tokenizer.json").unlink()
    expected = "set trust_remote_code = true"
    if case == "no definition" and TRANSFORMERS_5:
        expected = "it holds no tokenizer.json"
    for kwargs in ({}, {"trust_remote_code": False}, {"use_fast": False}):
        with pytest.raises(MosaicDataError, match=expected) as caught:
            load_pretrained(folder, kwargs)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "tok" / "RAN").exists()


@pytest.mark.usefixtures("nothing_asked")
def test_code_runs_where_it_is_trusted_and_not_where_it_is_not_needed(tmp_path: Path) -> None:
    own = {"tokenizer_class": "Mine", "auto_map": TOKENIZER, "eos_token": "</s>"}
    trusted = write(tmp_path / "trusted", tokenizer=DEFINITION, tokenizer_config=own)
    section = SimpleNamespace(name=trusted, kwargs={"trust_remote_code": True})
    made = build_mosaic_tokenizer(SimpleNamespace(mosaic_tokenizer=section))
    assert made is not None
    assert type(made.tokenizer).__name__ == "MyTokenizer"
    assert Path(trusted, "RAN").exists()
    # In quotes, "false" would count as true.
    with pytest.raises(MosaicDataError, match="trust_remote_code = 'false' must be true or false"):
        load_pretrained(trusted, {"trust_remote_code": "false"})
    # What transformers can load itself needs no code that lies beside it.
    for name, files in {
        "known": {"tokenizer_config": {**own, "tokenizer_class": "PreTrainedTokenizerFast"}},
        "the model's": {"config": {"model_type": "mine", "auto_map": MODEL}},
    }.items():
        folder = write(tmp_path / name, tokenizer=DEFINITION, **files)
        assert type(load_pretrained(folder, {})) is PreTrainedTokenizerFast
        assert not Path(folder, "RAN").exists()


@pytest.mark.usefixtures("nothing_asked")
@pytest.mark.parametrize(
    "name", ["AutoModel", "AutoProcessor", "AutoTokenizer", "Trainer", "pipeline", "RagTokenizer"]
)
def test_only_a_tokenizer_is_taken_for_one(tmp_path: Path, name: str) -> None:
    """transformers takes any of its names, and these look for code in their turn."""
    files: dict[str, Any] = {
        "tokenizer_config": {"tokenizer_class": name},
        "config": {"model_type": "mine", "auto_map": {**MODEL, **TOKENIZER}},
        "processor_config": {"auto_map": {"AutoProcessor": "code.MyTokenizer"}},
    }
    if name == "RagTokenizer":
        parts = {"question_encoder": {"model_type": "bert"}, "generator": {"model_type": "bart"}}
        files = {"config": {"model_type": "rag", **parts}}
        part = {"tokenizer_class": "Mine", "auto_map": TOKENIZER}
        write(tmp_path / "tok" / "question_encoder_tokenizer", tokenizer_config=part)
    folder = write(tmp_path / "tok", tokenizer=DEFINITION, **files)
    with pytest.raises(MosaicDataError, match=f"its class {name} is not a tokenizer"):
        load_pretrained(folder, {})
    assert not list(tmp_path.rglob("RAN"))


NAMES_FILES = {
    "tokenizer_file": {"tokenizer_class": "PreTrainedTokenizerFast", "tokenizer_file": "x.json"},
    "merges_file, vocab_file": {
        "tokenizer_class": "GPT2Tokenizer",
        "vocab_file": "/etc/passwd",
        "merges_file": "m",
    },
    "init_inputs": {"tokenizer_class": "GPT2Tokenizer", "init_inputs": ["/etc/passwd", "m"]},
    "fast_tokenizer_files": {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "fast_tokenizer_files": ["../tokenizer.4.0.0.json"],
    },
}


@pytest.mark.parametrize("named", NAMES_FILES)
def test_paths_in_a_configuration_are_not_followed(tmp_path: Path, named: str) -> None:
    folder = write(tmp_path / "tok", tokenizer=DEFINITION, tokenizer_config=NAMES_FILES[named])
    # There, and yet not to be read.
    (tmp_path / "tokenizer.4.0.0.json").write_text(DEFINITION)
    with pytest.raises(MosaicDataError, match=rf"names files by path \({named}\)"):
        load_pretrained(folder, {})


def test_links_lead_only_into_the_folder_or_the_hubs_cache(tmp_path: Path) -> None:
    outside = tmp_path / "secret.json"
    outside.write_text(DEFINITION)
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "tokenizer.json").symlink_to(outside)
    with pytest.raises(MosaicDataError, match=r"tokenizer\.json is a link to .*secret\.json, out"):
        load_pretrained(linked, {})
    # As the hub's cache lays files out; the folder itself may be a link, too.
    cache = tmp_path / "models--acme--tiny"
    (cache / "blobs").mkdir(parents=True)
    (cache / "blobs" / "0123").write_text(DEFINITION)
    snapshot = cache / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "tokenizer.json").symlink_to("../../blobs/0123")
    (tmp_path / "short").symlink_to(snapshot)
    for folder in (snapshot, tmp_path / "short"):
        assert load_pretrained(folder, {}).get_vocab() == {"a": 0, "</s>": 1}
    (snapshot / "special_tokens_map.json").symlink_to(outside)
    with pytest.raises(MosaicDataError, match="is a link to"):
        load_pretrained(snapshot, {})
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "real.json").write_text(DEFINITION)
    (inside / "tokenizer.json").symlink_to("real.json")
    assert load_pretrained(inside, {"eos_token": "</s>"}).eos_token_id == 1


LLAMA = {"tokenizer_class": "LlamaTokenizer", "eos_token": "</s>"}
LACKING = {
    "an empty folder": ({}, r"holds no tokenizer\.json"),
    "a broken definition": ({"tokenizer.json": "{"}, r"tokenizer\.json is damaged"),
    "no definition at all": ({"tokenizer.json": "{}"}, r"tokenizer\.json is damaged"),
    "a model alone": ({"tokenizer.model": "x"}, r"no tokenizer_config\.json whose tokenizer_class"),
    "a model without its package": (
        {"tokenizer.model": "x", "tokenizer_config.json": json.dumps(LLAMA)},
        "the package sentencepiece",
    ),
    "a configuration alone": (
        {"tokenizer_config.json": json.dumps(LLAMA)},
        r"vocabulary is missing: copy tokenizer\.json or tokenizer\.model",
    ),
    "a broken configuration": (
        {"tokenizer.json": DEFINITION, "tokenizer_config.json": "{"},
        r"tokenizer_config\.json is damaged",
    ),
    "no object": (
        {"tokenizer.json": DEFINITION, "tokenizer_config.json": "[]"},
        r"tokenizer_config\.json is damaged",
    ),
    "no name": (
        {"tokenizer.json": DEFINITION, "tokenizer_config.json": '{"tokenizer_class": ["x"]}'},
        "tokenizer_class.* is not a name",
    ),
}
if not TRANSFORMERS_5:
    LACKING["an unknown class"] = (
        {"tokenizer.json": DEFINITION, "tokenizer_config.json": '{"tokenizer_class": "Mine"}'},
        "Mine does not exist",
    )


@pytest.mark.parametrize("case", LACKING)
def test_what_a_folder_lacks_is_said_in_a_short_line(
    tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if it were not installed, wherever this runs.
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    files, expected = LACKING[case]
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(MosaicDataError, match=expected) as caught:
        load_pretrained(tmp_path, {})
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_a_definition_alone_is_enough_and_eos_is_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # The path guesses another class than the loaded one, of which transformers warns.
    folder = tmp_path / "llama-gpt2"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(DEFINITION)
    assert load_pretrained(folder, {}).eos_token_id is None
    assert load_pretrained(folder, {"eos_token": "</s>", "use_fast": True}).eos_token_id == 1
    assert not caplog.records


def byte_level(folder: Path) -> str:
    """A GPT-2 tokenizer in the files that both its forms read, with an added token of each kind."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=270,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(["the quick brown fox"] * 9, trainer)
    model = json.loads(bpe.to_str())["model"]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    config = {
        "tokenizer_class": "GPT2Tokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "</s>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    made = AutoTokenizer.from_pretrained(folder, use_fast=False)
    made.add_tokens([AddedToken("<tool>", normalized=False)])
    made.add_special_tokens({"additional_special_tokens": ["<|im|>"]})
    made.save_pretrained(folder)
    return str(folder)


TEXTS = ["the <s>x</s>", "</s>", "<tool></s><tool>", "a <|im|> b<tool> </s> c", "fox"]


def test_text_that_spells_a_special_token_stays_text(tmp_path: Path) -> None:
    """In tokenizers of both kinds."""
    folder = byte_level(tmp_path / "tok")
    documents = tmp_path / "texts.jsonl"
    documents.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    with MDSWriter(out=str(tmp_path / "raw"), columns={"text": "str"}) as writer:
        for text in TEXTS:
            writer.write({"text": text})
    fast = load_pretrained(folder, {})
    # What transformers' own fast tokenizer makes of them when it is told so.
    expected = fast(TEXTS, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    special = set(fast.all_special_ids)
    tool = fast.convert_tokens_to_ids("<tool>")
    assert expected[2].count(tool) == 2
    assert not any(special & set(ids) for ids in expected)
    for use_fast in (True, False):
        kwargs = {"use_fast": use_fast}
        tokenizer = load_pretrained(folder, kwargs)
        assert tokenizer.is_fast == (use_fast or TRANSFORMERS_5)
        before = tokenizer("the </s>")["input_ids"]
        raw = StreamingTextDataset(local=str(tmp_path / "raw"), seq_len=64, tokenizer=tokenizer)
        assert [raw[n].tolist() for n in range(len(TEXTS))] == expected
        # The tokenizer that was handed in is left as it was.
        assert tokenizer("the </s>")["input_ids"] == before
        assert before[-1] == tokenizer.eos_token_id
        parsed = BatchTokenizer(tokenizer, add_special_tokens=False, parse_special_tokens=True)
        again = pickle.loads(pickle.dumps(parsed))
        assert next(iter(again.ids(["</s>a<|im|>"])))[0] == fast.eos_token_id
        # The setting of a Rust tokenizer does not pass from process to process by itself.
        kept = pickle.loads(pickle.dumps(BatchTokenizer(tokenizer, add_special_tokens=False)))
        assert list(kept.ids(TEXTS)) == expected


def test_a_tokenizer_that_is_handed_in_keeps_its_settings() -> None:
    own = Tokenizer.from_str(DEFINITION)
    own.add_special_tokens(["</s>"])
    own.enable_truncation(1)
    assert list(BatchTokenizer(own).ids(["</s>a"])) != [[1]]
    assert own.encode("</s>").ids == [1]
    assert own.truncation is not None
    assert not own.encode_special_tokens


def test_tokenizers_with_ways_of_their_own_to_spare_special_tokens(tmp_path: Path) -> None:
    """BERT's, written in Python, keeps them together where it splits words."""
    words = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "[", "]", "sep", "cls", "the"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    slow = BertTokenizer(str(tmp_path / "vocab.txt"))
    fast = BertTokenizerFast(str(tmp_path / "vocab.txt"))
    texts = ["the [SEP] the", "[CLS]", "[sep]"]
    ids = [[int(i) for i in own] for own in BatchTokenizer(slow).encode(texts)]
    assert ids == [own.tolist() for own in BatchTokenizer(fast).encode(texts)]
    assert ids[0] == [1, 9, 5, 7, 6, 9, 2]


def test_a_tokenizer_is_complete_before_several_threads_use_it() -> None:
    """A setting that changed while another thread encodes would be "Already borrowed"."""
    fast = Tokenizer.from_str(DEFINITION)
    for parse in (False, True):
        made = BatchTokenizer(fast, parse_special_tokens=parse)
        assert made.fast.encode_special_tokens is not parse
        # What a worker process is given.
        assert pickle.loads(pickle.dumps(made)).fast.encode_special_tokens is not parse
