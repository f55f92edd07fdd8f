"""Tokenizer, end tokens and template of a checkpoint: one meaning whatever file says it."""

from __future__ import annotations

import dataclasses
import datetime
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from models.test_gguf import write_gguf
from models.test_hf import write_folder
from models.tiny import SPECIALS, TEMPLATE, tiny_source, tiny_tokenizer_json
from narrows.errors import ArtifactError
from narrows.models.checkpoint.gguf_model import load_gguf
from narrows.models.checkpoint.hf import load_hf
from narrows.models.checkpoint.pack import pack
from narrows.models.checkpoint.source import TokenizerData
from narrows.models.text.chat import ChatRenderer
from narrows.models.text.template_text import strftime_now
from narrows.models.text.tokenizer import BpeTokenizer

END, START, IM_END = range(3)  # ids of SPECIALS
SIZE = tiny_source().config.vocab_size


def folder(path: Path, *, special: bool = True, **files: Any) -> Path:
    """A Hugging Face folder; ``files`` by name without ``.json``: changes of a JSON file.
    ``special``: whether the tokenizer calls its control tokens special."""
    path.mkdir(exist_ok=True)
    write_folder(path, tiny_source(n_layers=1))
    for name, change in files.items():
        file = path / f"{name}.json"
        content = json.loads(file.read_text()) if file.exists() else {}
        content = {k: v for k, v in (content | change).items() if v is not None}
        file.write_text(json.dumps(content))
    if not special:
        file = path / "tokenizer.json"
        content = json.loads(file.read_text())
        for row in content["added_tokens"]:
            row["special"] = False
        file.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("files", "ids"),
    [
        ({"config": {"eos_token_id": 7}}, {7, IM_END}),
        ({"generation_config": {"eos_token_id": [7, 8]}}, {5, 7, 8, IM_END}),
        ({"tokenizer_config": {"eos_token": SPECIALS[0]}}, {5, END}),
        ({"tokenizer_config": {"eos_token": None}, "config": {"eos_token_id": [9]}}, {9}),
        ({"special_tokens_map": {"eos_token": {"content": SPECIALS[2]}}}, {5, IM_END}),
        ({"config": {"eos_token_id": None}}, {IM_END}),
    ],
)
def test_every_named_end_counts(tmp_path: Path, files: Any, ids: set[int]) -> None:
    """Beside them the usual ones that the tokenizer calls special."""
    base = {"config": {"eos_token_id": 5}}
    assert set(load_hf(folder(tmp_path, special=False, **base | files)).tokenizer.eos_ids) == ids
    file = tmp_path / "tokenizer.json"
    file.write_text(tiny_tokenizer_json())
    assert set(load_hf(tmp_path).tokenizer.eos_ids) == ids | {END, IM_END}


def test_both_formats_give_the_same_ends(tmp_path: Path) -> None:
    """A chat model whose config.json still has the base model's end: ``<|im_end|>`` must end an
    answer, not stand in it."""
    end = {"eos_token_id": END}
    path = folder(tmp_path / "hf", config=end, tokenizer_config={"eos_token": SPECIALS[0]})
    write_gguf(tmp_path / "m.gguf", tiny_source(), tokenizer__ggml__eot_token_id=IM_END)
    ends = {load(p).tokenizer.eos_ids for load, p in _both(path, tmp_path / "m.gguf")}
    assert ends == {(END, IM_END)}


def _both(path: Path, file: Path) -> Any:
    return ((load_hf, path), (load_gguf, file))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config": {"eos_token_id": SIZE}}, f"eos_token_id is {SIZE}, .*vocab_size is {SIZE}"),
        ({"generation_config": {"eos_token_id": "2"}}, "generation_config.json: eos_token_id"),
        ({"tokenizer_config": {"eos_token": "</s>"}}, "eos_token is '</s>', which tokenizer.json"),
        (
            {
                "tokenizer_config": {"bos_token": SPECIALS[0]},
                "special_tokens_map": {"bos_token": SPECIALS[1]},
            },
            r"tokenizer_config.json: bos_token is .*special_tokens_map.json: bos_token is",
        ),
        (
            {"chat_template": {"chat_template": "{{ 1 }}"}},
            r"tokenizer_config.json: chat_template is .*chat_template.json: chat_template is '{{ 1",
        ),
        (
            {"tokenizer_config": {"chat_template": [{"name": "rag", "template": "x"}]}},
            "none or two are called 'default'",
        ),
        ({"tokenizer_config": {"chat_template": {"a": 1}}}, "chat template is .* no text"),
        (
            {"tokenizer_config": {"added_tokens_decoder": {"7": {"content": SPECIALS[0]}}}},
            r"id of '<\|endoftext\|>' is 7, that in tokenizer.json is 0",
        ),
        (
            {"tokenizer_config": {"added_tokens_decoder": {"0": {"content": SPECIALS[0]}}}},
            r"special of '<\|endoftext\|>' is False, that in tokenizer.json is True",
        ),
        ({"added_tokens": {"<tool>": 7}}, "added_tokens.json is '<tool>', tokenizer.json is"),
        (
            {"tokenizer_config": {"additional_special_tokens": ["<tool>"]}},
            "additional_special_tokens is '<tool>'",
        ),
        ({"tokenizer": {"normalizer": {"type": "Lowercase"}}}, "normalizer 'Lowercase' changes"),
        (
            {
                "tokenizer": {
                    "normalizer": {
                        "type": "Sequence",
                        "normalizers": [{"type": "NFC"}, {"type": "Prepend", "prepend": "_"}],
                    }
                }
            },
            "normalizer 'Prepend' changes",
        ),
        ({"tokenizer": {"normalizer": {"type": "NFKC"}}}, "normalizer 'NFKC' changes"),
        (
            {"tokenizer_config": {"pad_token": "<|pad|>", "chat_template": "{{ pad_token }}x"}},
            r"template uses pad_token.*tokenizer_config.json: pad_token is '<\|pad\|>'",
        ),
        ({"tokenizer_config": {"add_prefix_space": True}}, "add_prefix_space changes text"),
        ({"tokenizer": {"decoder": {"type": "Metaspace"}}}, "decoder is not byte-level"),
        (
            {"tokenizer": {"added_tokens": [{"id": 0, "content": "<x>", "lstrip": True}]}},
            "'<x>' has lstrip",
        ),
        (
            {"tokenizer": {"added_tokens": [{"id": True, "content": "<x>"}]}},
            "malformed added token.*True",
        ),
        (
            {"tokenizer": {"added_tokens": [{"id": SIZE, "content": "<x>"}]}},
            "malformed added token",
        ),
    ],
)
def test_statements_about_text_that_differ(tmp_path: Path, files: Any, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        load_hf(folder(tmp_path, **files))


def test_templates_in_two_places_that_agree(tmp_path: Path) -> None:
    """Only the line end at the end differs, which Jinja drops; a third place disagrees."""
    folder(tmp_path, chat_template={"chat_template": TEMPLATE})
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE + "\n")
    assert load_hf(tmp_path).tokenizer.chat_template == TEMPLATE
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE + "{# #}x")
    with pytest.raises(ArtifactError, match=r"chat_template\.jinja is"):
        load_hf(tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ArtifactError, match=r"cannot read chat_template\.jinja"):
        load_hf(tmp_path)


def test_nfc_changes_nothing_in_text_that_is_nfc(tmp_path: Path) -> None:
    import tokenizers

    content = json.loads(tiny_tokenizer_json()) | {"normalizer": {"type": "NFC"}}
    data = load_hf(folder(tmp_path, tokenizer=content)).tokenizer
    own = BpeTokenizer(data.json_text, vocab_size=SIZE, eos_ids=data.eos_ids)
    theirs = tokenizers.Tokenizer.from_str(json.dumps(content))
    text = "Größe, naïve café: 12,345 bytes"
    assert own.encode(text.encode()) == theirs.encode(text, add_special_tokens=False).ids


def with_added(*rows: dict[str, Any], vocab: dict[str, int] | None = None) -> BpeTokenizer:
    content = json.loads(tiny_tokenizer_json())
    content["added_tokens"] += [{"special": False} | row for row in rows]
    content["model"]["vocab"] |= vocab or {}
    return BpeTokenizer(json.dumps(content), vocab_size=SIZE + 4, eos_ids=(0,))


def test_added_tokens_that_the_vocabulary_has() -> None:
    """Ordinary text that is also an added token stays both; one that no merge makes is a marker;
    a special one is never made from text; two ids of one text are two statements."""
    content = json.loads(tiny_tokenizer_json())
    vocab = content["model"]["vocab"]
    word = next(a + b for a, b in content["model"]["merges"] if (a + b).isascii())
    plain = BpeTokenizer(tiny_tokenizer_json(), vocab_size=SIZE + 4, eos_ids=(0,))
    ids = plain.encode(word.encode())
    assert ids == [vocab[word]]

    both = with_added({"id": vocab[word], "content": word})
    assert both.encode(word.encode()) == ids == both.encode_chat(word)
    assert both.token_bytes(ids[0]) == word.encode()
    assert ids[0] not in both.special_ids

    marker = with_added({"id": SIZE, "content": "<think>"}, vocab={"<think>": SIZE})
    assert SIZE in marker.special_ids
    assert SIZE not in marker.encode(b"<think>")
    assert marker.encode_chat("<think>") == [SIZE]

    special = with_added({"id": vocab[word], "content": word, "special": True})
    spelt = special.encode(word.encode())
    assert vocab[word] not in spelt
    assert b"".join(map(special.token_bytes, spelt)) == word.encode()

    with pytest.raises(ArtifactError, match=f"'{word}' is id {SIZE}, in the vocabulary"):
        with_added({"id": SIZE, "content": word})
    with pytest.raises(ArtifactError, match="stands for two texts"):
        with_added({"id": vocab[word], "content": "<think>"})


def test_rows_without_a_meaning_have_no_text(tmp_path: Path) -> None:
    """GGUF names the rows that fill up the embedding; the names are no text."""
    source = tiny_source()
    content = json.loads(source.tokenizer.json_text)
    content["model"]["vocab"]["[PAD]"] = SIZE
    data = dataclasses.replace(source.tokenizer, json_text=json.dumps(content))
    padded = tiny_source(vocab_size=SIZE + 1)
    write_gguf(tmp_path / "m.gguf", dataclasses.replace(padded, tokenizer=data), unused=1)
    loaded = load_gguf(tmp_path / "m.gguf").tokenizer
    own = BpeTokenizer(loaded.json_text, vocab_size=SIZE + 1, eos_ids=loaded.eos_ids)
    assert own.token_bytes(SIZE) == b""
    assert SIZE in own.special_ids


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ strptime_now('%Y') }}", "'strptime_now' is undefined"),
        ("{{ messages[0].content.nope() }}", "has no attribute 'nope'"),
        ("{{ raise_exception('no chats here') }}", "refuses every chat.*no chats here"),
        ("{{ messages[0].content + 1 }}", "fails on the messages"),
        ("{{ '' }}", "made nothing"),
        ("{% if messages|length > 1 %}{{ oops() }}{% endif %}x", "'oops' is undefined"),
        ("{{ messages|urlize }}", "malformed"),
    ],
)
def test_a_template_that_cannot_render_is_refused_at_import(
    tmp_path: Path, template: str, message: str
) -> None:
    data = dataclasses.replace(tiny_source().tokenizer, chat_template=template)
    source = dataclasses.replace(tiny_source(), tokenizer=data)
    with pytest.raises(ArtifactError, match=message):
        pack(source, tmp_path / "m.narrows", name="m", threads=1)


def test_a_template_may_refuse_some_chats() -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}{{ bos_token + m.content }}{% endfor %}"
    )
    own = BpeTokenizer(tiny_tokenizer_json(), vocab_size=SIZE, eos_ids=(0,))
    ChatRenderer(template, own).rehearse()


def test_an_end_token_that_is_also_text(tmp_path: Path) -> None:
    data = dataclasses.replace(tiny_source().tokenizer, eos_ids=(2, 50))
    source = dataclasses.replace(tiny_source(), tokenizer=data)
    with pytest.raises(ArtifactError, match="end token 50 is also the ordinary text"):
        pack(source, tmp_path / "m.narrows", name="m", threads=1)


def test_a_model_without_template_starts_as_its_tokenizer_does(tmp_path: Path) -> None:
    post = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": SPECIALS[1], "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
    }
    content = json.loads(tiny_tokenizer_json())
    said = {"chat_template": None, "bos_token": SPECIALS[1]}
    cases: list[tuple[dict[str, Any], Any, bool]] = [
        (said, post, True),
        (said, None, False),
        (said | {"add_bos_token": True}, None, True),
        (said | {"chat_template": TEMPLATE, "add_bos_token": True}, post, False),
    ]
    for config, processor, starts in cases:
        path = folder(tmp_path, tokenizer_config=config)
        (path / "tokenizer.json").write_text(json.dumps(content | {"post_processor": processor}))
        data = load_hf(path).tokenizer
        assert data.chat_template.startswith("{{ bos_token }}") is starts
        if starts:
            assert rendered(data)[0] == START
    path = folder(tmp_path, tokenizer_config=said | {"add_bos_token": False})
    (path / "tokenizer.json").write_text(json.dumps(content | {"post_processor": post}))
    with pytest.raises(ArtifactError, match=r"add_bos_token is False, tokenizer\.json: post_proc"):
        load_hf(path)


def rendered(data: TokenizerData) -> list[int]:
    own = BpeTokenizer(data.json_text, vocab_size=SIZE, eos_ids=data.eos_ids)
    chat = ChatRenderer(data.chat_template, own, bos_token=data.bos_token, eos_token=data.eos_token)
    return chat.render([{"role": "user", "content": "Hello."}])


def test_the_fixed_day_is_a_day() -> None:
    day = datetime.datetime(2024, 7, 26)
    for name in "YymdeBbhAapHIMSjuwUWVGFTRDxXc%":
        assert strftime_now(f"%{name}") == day.strftime(f"%{name}"), name
    for name in ("-d", "-m", "-H", "-I", "-j"):
        assert strftime_now(f"%{name}") == day.strftime(f"%{name}"), name


def test_the_command_says_it_in_one_sentence(tmp_path: Path) -> None:
    """``narrows weak import`` and ``narrows plan weights`` as people run them: both statements
    or the missing file, no traceback, nothing written."""
    thetas = {"rope_theta": 500.0, "rope_parameters": {"rope_theta": 1e4}}
    path = folder(tmp_path / "hf", config=thetas)
    out = tmp_path / "m.narrows"
    index = {"weight_map": {"w": "model-00001-of-00002.safetensors"}}
    for words, said in (
        (
            ["weak", "import", str(path), "--out", str(out)],
            "rope_theta is 500.0, rope_parameters.rope_theta is 10000.0",
        ),
        (
            ["plan", "weights", str(path)],
            "names model-00001-of-00002.safetensors, which is missing",
        ),
    ):
        ended = subprocess.run(
            [sys.executable, "-m", "narrows.cli.main", *words],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert ended.returncode == ArtifactError.exit_code
        assert said in " ".join(ended.stderr.split())
        assert "Traceback" not in ended.stderr
        (path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert not out.exists()
