"""OnnxModel: an exported model that answers through onnxruntime-genai, without PyTorch, with or without an adapter.

Takes a folder that `to_onnx` wrote; gives texts, pieces of text as they come, log-likelihoods of labels, and sizes.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.errors import LabError
from labkit.export import graph
from labkit.profiles import compute_threads, limited
from labkit.tables import Table

if TYPE_CHECKING:
    import numpy as np

FACTS = "labkit.json"
ADAPTERS = "adapters"
SEED = 0


@dataclass(frozen=True)
class Piece:
    """A part of an answer: its text, the id of the token that brought it, and why the answer ended, if it did.

    `end` is "stop" (end of turn), "length" (no room or no tokens left) or "" (it goes on).
    """

    text: str
    token: int
    end: str = ""


class OnnxModel:
    """A model to ask, from the folder that `to_onnx` wrote; several threads may ask at once.

    Raises:
        LabError: the folder holds no exported model, or a damaged one.
    """

    def __init__(self, folder: str | Path):
        og = genai()
        self.folder = Path(folder)
        self.facts = _checked(self.folder)
        try:
            self._model = og.Model(_configured(og, self.folder))
            self._tokenizer = og.Tokenizer(self._model)
            self._adapters = og.Adapters(self._model) if self.facts["adapters"] else None
            for name in self.facts["adapters"]:
                self._adapters.load(str(self.folder / ADAPTERS / f"{name}.onnx_adapter"), name)
        except Exception as error:  # genai raises RuntimeError and others, by what it trips over
            raise LabError("onnxruntime-genai cannot load this model", where=str(self.folder),
                           todo="Export it again") from error
        self._settings = json.loads((self.folder / "genai_config.json").read_text(encoding="utf-8"))["model"]
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        more = f", adapters {', '.join(self.adapters)}" if self.adapters else ""
        return f"OnnxModel({self.facts['source']}, {self.facts['precision']}{more})"

    @property
    def adapters(self) -> list[str]:
        """Names of the adapters that it can switch to."""
        return list(self.facts["adapters"])

    @property
    def context(self) -> int:
        """How many tokens prompt and answer may have together."""
        return int(self._settings["context_length"])

    @property
    def ends(self) -> set[int]:
        """Token ids that end an answer."""
        end = self._settings["eos_token_id"]
        return set(end) if isinstance(end, list) else {end}

    # ------------------------------------------------------------------ text and tokens

    @cached_property
    def _exact(self) -> Any:
        """The tokenizer of the folder in the library that transformers uses, which needs no PyTorch."""
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(self.folder / "tokenizer.json"))

    def genai_ids(self, text: str) -> list[int]:
        """Token ids by genai's own tokenizer, whether it agrees with the others or not."""
        return [int(i) for i in self._tokenizer.encode(text)]

    def encode(self, text: str) -> list[int]:
        """Token ids of a text that is rendered already, the same as in training."""
        if self.facts["tokenizer"] == "genai":
            return self.genai_ids(text)
        return self._exact.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        import numpy as np

        if not len(ids):
            return ""
        if self.facts["tokenizer"] == "genai":
            return self._tokenizer.decode(np.array(ids, np.int32))
        return self._exact.decode(list(ids), skip_special_tokens=True)

    def render(self, prompt: str | Sequence[dict[str, str]]) -> str:
        """The text that the model sees for a user's message or for turns: the chat template, as in training.

        Raises:
            LabError: there is no text in it, or the template refuses the turns.
        """
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(t) for t in prompt]
        if not turns or not any(str(turn.get("content", "")).strip() for turn in turns):
            raise LabError("the prompt is empty", where="prompt", expected="some text")
        if self.facts["template"] == "genai":
            try:
                return self._tokenizer.apply_chat_template(json.dumps(turns, ensure_ascii=False),
                                                           add_generation_prompt=True)
            except Exception as error:
                roles = ", ".join(str(turn.get("role")) for turn in turns)
                raise LabError(f"the chat template refuses turns of {roles}", where="prompt") from error
        from labkit.data.template import render
        from labkit.models import load_tokenizer

        return render(load_tokenizer(self.folder), turns)

    def prompt_ids(self, prompt: str | Sequence[dict[str, str]]) -> list[int]:
        """Token ids of a prompt in the chat template.

        Raises:
            LabError: it is empty, or it leaves no room for an answer.
        """
        ids = self.encode(self.render(prompt))
        if len(ids) >= self.context:
            raise LabError(f"the prompt has {len(ids)} tokens", where="prompt",
                           expected=f"fewer than {self.context}, the model's context", todo="Shorten it")
        return ids

    # ------------------------------------------------------------------ answers

    def generate(self, prompts: str | Sequence, max_new_tokens: int = 96, **options) -> str | list[str]:
        """Answers up to the end of turn; one text for one prompt, a list for several.

        Args:
            prompts: a user's message, or a list of prompts, each a message or a list of turns.
            max_new_tokens: the longest answer, in tokens.
            options: adapter, temperature, top_p, top_k, seed, as in `stream`.

        Raises:
            LabError: as `stream`.
        """
        one = isinstance(prompts, str)
        found = ["".join(piece.text for piece in self.stream(prompt, max_new_tokens, **options)).strip()
                 for prompt in ([prompts] if one else prompts)]
        return found[0] if one else found

    def tokens(self, prompt: str | Sequence[dict[str, str]], max_new_tokens: int = 96, **options) -> list[int]:
        """Token ids of an answer, without the one that ends it; options as in `stream`."""
        return [piece.token for piece in self.stream(prompt, max_new_tokens, **options) if piece.token not in self.ends]

    def stream(self, prompt: str | Sequence[dict[str, str]], max_new_tokens: int = 96, *, adapter: str | None = None,
               temperature: float = 0.0, top_p: float = 1.0, top_k: int = 0,
               seed: int | None = None) -> Iterator[Piece]:
        """An answer piece by piece, as it comes.

        Args:
            prompt: a user's message, or the turns so far.
            max_new_tokens: the longest answer; less where the context has less room.
            adapter: the name of one of `adapters`; None is the base.
            temperature: 0 takes the likeliest token each time; else tokens are drawn at this temperature.
            top_p: draw from the likeliest tokens that have this probability together. top_k: from so many; 0 is all.
            seed: of the drawing; None draws anew each time.

        Raises:
            LabError: an empty prompt, one that is longer than the context, an unknown adapter, or a setting out of
                its range.
        """
        self._check(adapter, max_new_tokens, temperature, top_p, top_k)
        ids = self.prompt_ids(prompt)  # here and not at the first piece, so that errors come at once
        room = min(limited(max_new_tokens, "LABKIT_TOKENS", "tokens"), self.context - len(ids))
        drawing = {"do_sample": temperature > 0}
        if temperature > 0:
            drawing |= {"temperature": temperature, "top_p": top_p, "top_k": top_k or self._settings["vocab_size"]}
            drawing |= {"random_seed": seed} if seed is not None else {}
        return self._pieces(ids, room, adapter, drawing)

    def _pieces(self, ids: list[int], room: int, adapter: str | None, drawing: dict) -> Iterator[Piece]:
        generator = self._generator(len(ids) + room, adapter, **drawing)
        generator.append_tokens(ids)
        said: list[int] = []
        shown = ""
        for step in range(room):
            generator.generate_next_token()
            token = int(generator.get_next_tokens()[0])
            if token in self.ends:
                yield Piece(self.decode(said)[len(shown) :], token, "stop")  # what was held back comes out
                return
            said.append(token)
            last = step == room - 1
            text = self.decode(said)
            if text.endswith("\ufffd") and not last:  # a letter of several tokens, not whole yet
                yield Piece("", token)
                continue
            yield Piece(text[len(shown) :], token, "length" if last else "")
            shown = text

    def _generator(self, length: int, adapter: str | None = None, batch: int = 1, **options):
        og = genai()
        params = og.GeneratorParams(self._model)
        params.set_search_options(max_length=length, batch_size=batch, **options)
        generator = og.Generator(self._model, params)
        if adapter is not None:
            with self._lock:
                generator.set_active_adapter(self._adapters, adapter)
        return generator

    def _check(self, adapter, max_new_tokens, temperature, top_p, top_k) -> None:
        if adapter is not None and adapter not in self.facts["adapters"]:
            raise LabError(f"there is no adapter {adapter!r}", where="adapter",
                           expected=" or ".join(self.adapters) or "None: this model was exported without adapters")
        for where, value, fine, expected in (
            ("max_new_tokens", max_new_tokens, max_new_tokens >= 1, "a whole number from 1 on"),
            ("temperature", temperature, 0 <= temperature <= 5, "a number from 0 to 5"),
            ("top_p", top_p, 0 < top_p <= 1, "a number above 0, at most 1"),
            ("top_k", top_k, top_k >= 0, "a whole number, 0 for all tokens"),
        ):
            if not fine:
                raise LabError(f"{value}", where=where, expected=expected)

    # ------------------------------------------------------------------ likelihoods

    def logits(self, ids: Sequence[int], adapter: str | None = None) -> np.ndarray:
        """Logits after each of these tokens, (seq, vocabulary)."""
        generator = self._generator(len(ids) + 1, adapter)
        generator.append_tokens(list(ids))
        return generator.get_output("logits")[0]

    def score_labels(self, prompts: Sequence, labels: Sequence[str], adapter: str | None = None) -> np.ndarray:
        """Log-likelihood of each label as the whole answer to each prompt, end of turn included.

        What a prompt has in common with the one before it is not read again.

        Args:
            prompts: n prompts, strings or lists of turns. labels: m possible answers.

        Returns:
            (n, m) in nats.

        Raises:
            LabError: as `stream`.
        """
        import numpy as np

        self._check(adapter, 1, 0, 1, 0)
        asked = [self.prompt_ids(prompt) for prompt in prompts]
        end = self._settings["eos_token_id"]
        end = end[0] if isinstance(end, list) else end
        answers = [[*self.encode(label), end] for label in labels]
        scores = np.zeros((len(asked), len(answers)))
        if not asked:
            return scores
        generator = self._generator(max(map(len, asked)) + max(map(len, answers)), adapter)
        read: list[int] = []
        for i, ids in enumerate(asked):
            same = min(len(os.path.commonprefix([read, ids])), len(ids) - 1)
            if read:
                generator.rewind_to(same)
            generator.append_tokens(ids[same:])
            first = log_softmax(generator.get_output("logits")[0, -1])
            for j, answer in enumerate(answers):
                scores[i, j] = first[answer[0]]
                if len(answer) > 1:
                    generator.append_tokens(answer[:-1])
                    rows = generator.get_output("logits")[0]  # (len(answer) - 1, vocabulary)
                    scores[i, j] += sum(log_softmax(row)[t] for row, t in zip(rows, answer[1:], strict=True))
                    generator.rewind_to(len(ids))
            read = ids
        return scores

    def classify(self, prompts: Sequence, labels: Sequence[str], adapter: str | None = None) -> list[str]:
        """The likeliest label for each prompt; arguments as in `score_labels`."""
        return [labels[i] for i in self.score_labels(prompts, labels, adapter).argmax(-1)]

    # ------------------------------------------------------------------ sizes

    @property
    def bytes(self) -> int:
        """Size of the whole folder, as it would be sent to somebody."""
        return folder_bytes(self.folder)

    def info(self) -> Table:
        """Bytes by part: which weights, the graph, the tokenizer, settings, and each adapter."""
        parts, whole = part_bytes(self.folder), self.bytes
        rows = [{"part": name, "bytes": size, "share": f"{size / whole:.1%}"} for name, size in parts.items()]
        return Table([*rows, {"part": "whole folder", "bytes": whole, "share": "100.0%"}], repr(self))


def _configured(og, folder: Path):
    """The folder's own settings, with as many threads as PyTorch takes: left alone, genai took one of two cores."""
    config = og.Config(str(folder))
    threads = {"intra_op_num_threads": compute_threads()}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": threads}}}))
    return config


def genai():
    """onnxruntime-genai, or a LabError that says how to get it."""
    try:
        import onnxruntime_genai
    except ImportError as error:
        raise LabError("onnxruntime-genai is not installed", where="export",
                       todo="Run `pip install -c constraints.txt -e '.[olive]'` in the course's folder") from error
    return onnxruntime_genai


def folder_bytes(folder: str | Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())


def part_bytes(folder: str | Path) -> dict[str, int]:
    """Bytes of each part of an exported model; they add up to the folder."""
    import onnx

    folder, parts = Path(folder), {}
    for tensor in onnx.load(str(folder / graph.FILE), load_external_data=False).graph.initializer:
        held = next((int(entry.value) for entry in tensor.external_data if entry.key == "length"), 0)
        name = _part(tensor.name)
        parts[name] = parts.get(name, 0) + held
    data = (folder / graph.DATA).stat().st_size if (folder / graph.DATA).is_file() else 0
    parts["norms, positions and the rest"] = data - sum(parts.values()) + parts.get("norms, positions and the rest", 0)
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name != graph.DATA:
            name = ("graph" if file.suffix == ".onnx" else f"adapter {file.stem}" if file.parent.name == ADAPTERS
                    else "tokenizer" if "token" in file.name or file.suffix in (".jinja", ".model", ".txt")
                    else "settings")
            parts[name] = parts.get(name, 0) + file.stat().st_size
    return parts


def _part(name: str) -> str:
    if "lm_head" in name or "embed" in name:
        return "embedding and head"
    if ".attn." in name and "norm" not in name:
        return "attention"
    return "MLP" if ".mlp." in name else "norms, positions and the rest"


def log_softmax(x: np.ndarray) -> np.ndarray:
    """Log-probabilities of logits (..., vocabulary), in float64."""
    import numpy as np

    x = x.astype(np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def _checked(folder: Path) -> dict:
    """The folder's record, after every file was seen to be there and whole."""
    if not folder.is_dir():
        raise LabError("there is no such folder", where=str(folder), expected="one that to_onnx wrote")
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        files = dict(facts["files"])
        facts["adapters"], facts["tokenizer"], facts["template"], facts["source"], facts["precision"]  # noqa: B018
    except FileNotFoundError:
        raise LabError("no exported model", where=str(folder), expected=f"a folder with {FACTS}, as to_onnx writes it",
                       todo="Export one: labkit.export.to_onnx(run)") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LabError(f"{FACTS} is damaged", where=str(folder), todo="Export it again") from error
    for name, size in files.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != size:
            found = f"has {file.stat().st_size:,} bytes" if file.is_file() else "is missing"
            raise LabError(f"{name} {found}", where=str(folder), expected=f"{size:,} bytes, as exported",
                           todo="Export it again, or copy the folder whole")
    return facts
