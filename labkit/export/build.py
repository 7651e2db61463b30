"""to_onnx(run) -> OnnxModel: merge, let onnxruntime-genai's builder make the graph, quantise, give adapters a place.

The step from a trained model to one that runs without PyTorch; what it writes is whole, or not there at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from labkit import adapters as low_rank
from labkit import models
from labkit.errors import LabError
from labkit.export import adapters as switched
from labkit.export import graph, quantize, tokens
from labkit.export.model import ADAPTERS, FACTS, OnnxModel, genai
from labkit.profiles import runs
from labkit.training import Run, writable

PRECISIONS = ("fp32", "fp16", "int8", "int4")
CALIBRATION = 24  # texts that GPTQ sees where none are given
LONGEST = 256  # tokens of each


def to_onnx(run_or_model: Any = None, precision: str = "fp32", adapters: Mapping[str, Any] | None = None, *,
            out: str | Path | None = None, recipe: quantize.Recipe | None = None, texts: Sequence[str] | None = None,
            reuse: bool = False) -> OnnxModel:
    """Export a model, merged, to a folder that onnxruntime-genai runs.

    Args:
        run_or_model: a Run (its adapter is merged into its base), a pair (model, tokenizer), or a profile, folder or
            hub id; None is the current profile's base.
        precision: "fp32", "fp16", "int8" or "int4".
        adapters: name to a peft adapter's folder, or a Run; the model is then exported once, and each adapter beside
            it, to be switched to by name. Without them is the base.
        out: the folder; below the Run's, or below `runs/`, where it is not given.
        recipe: of the quantisation; `quantize.INT4` or `INT8` where it is not given.
        texts: what "gptq" calibrates on; prompts of the shipped training tickets where they are not given.
        reuse: take what lies in `out`, if it was made of the same weights in the same way.

    Raises:
        LabError: an unknown precision, an architecture that the builder does not know, an adapter that does not fit,
            or a folder that cannot be written to.
    """
    if precision not in PRECISIONS:
        raise LabError(f"there is no precision {precision!r}", where="precision", expected=", ".join(PRECISIONS))
    genai()
    usual = {"int4": quantize.INT4, "int8": quantize.INT8}.get(precision)
    recipe = (recipe or usual) if usual else None
    adapters = {name: _adapter_folder(path) for name, path in (adapters or {}).items()}
    out = Path(out) if out else _place(run_or_model, precision, bool(adapters))
    refuse(adapters, out)
    if recipe:
        quantize.check(recipe)
    made_of = {"weights": _weights(run_or_model), "precision": precision, "recipe": recipe.facts() if recipe else None,
               "adapters": {name: _hash(path) for name, path in adapters.items()},
               "texts": hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16] if texts else "shipped"}
    if reuse and made_of["weights"] and _made_of(out) == json.loads(json.dumps(made_of)):
        with contextlib.suppress(LabError):  # a damaged one is made anew
            return OnnxModel(out)
    writable(out.parent)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".onnx-") as scratch:
        source, made = Path(scratch) / "source", Path(scratch) / "made"
        name = _prepare(run_or_model, source)
        options = dict(recipe.builder) if recipe else {}
        _build(source, made, "int4" if options else "fp32", options, name)
        _settle(source, made)
        if recipe and not options:
            quantize.quantise(made, recipe, _texts(source, texts) if recipe.rounding == "gptq" else ())
        ranks = _place_adapters(made, adapters)
        if precision == "fp16":
            quantize.halve(made)
        facts = {"source": name, "precision": precision, "recipe": made_of["recipe"], "adapters": ranks,
                 "made_of": made_of, **_agreement(source, made)}
        _record(made, facts)
        if out.exists():
            shutil.rmtree(out)
        os.replace(made, out)
    return OnnxModel(out)


def refuse(names: Iterable[str], out: Path) -> None:
    """Nothing, if adapters may be called so and `out` may be written over; said before anything is made.

    Raises:
        LabError: a name is none, or the folder holds something else than an exported model.
    """
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", name):
            raise LabError(f"{name!r} is no name for an adapter", where="adapters",
                           expected="letters, digits, dots, hyphens, at most 64")
    if out.exists() and not (out / FACTS).is_file() and any(out.iterdir()):
        raise LabError("this folder holds something else", where=str(out), todo="Choose another one with out=")


def quantised(fp32: OnnxModel, recipe: quantize.Recipe, out: str | Path,
              texts: Sequence[str] | None = None) -> OnnxModel:
    """Quantise an fp32 export into another folder; arguments as for `to_onnx`.

    Raises:
        LabError: the recipe is the builder's own, or the model has adapters or is quantised already.
    """
    if recipe.builder or fp32.facts["precision"] != "fp32" or fp32.adapters:
        raise LabError("only an fp32 export without adapters can be quantised again, and not by the builder",
                       where=str(fp32.folder), todo="Export it anew: to_onnx(run, 'int4', recipe=recipe)")
    quantize.check(recipe)
    out = Path(out)
    texts = _texts(fp32.folder, texts) if recipe.rounding == "gptq" else ()
    shutil.copytree(fp32.folder, out)
    try:
        quantize.quantise(out, recipe, texts)
    except LabError:
        shutil.rmtree(out)  # an fp32 copy by another name
        raise
    _record(out, {**fp32.facts, "precision": "int4" if recipe.bits == 4 else "int8", "recipe": recipe.facts(),
                  "made_of": None})
    return OnnxModel(out)


def _record(made: Path, facts: dict) -> None:
    """Write the folder's record, with the size of every file in it."""
    (made / FACTS).unlink(missing_ok=True)
    facts["files"] = {str(file.relative_to(made).as_posix()): file.stat().st_size
                      for file in sorted(made.rglob("*")) if file.is_file()}
    (made / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _place(run_or_model: Any, precision: str, with_adapters: bool) -> Path:
    name = f"onnx-{precision}{'-adapters' if with_adapters else ''}"
    return run_or_model.folder / name if isinstance(run_or_model, Run) else runs(name)


def _adapter_folder(path: Any) -> Path:
    return low_rank.folder_of(path.folder if isinstance(path, Run) else path)


def _hash(folder: Path) -> str:
    try:
        return hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise LabError("no adapter here", where=str(folder), expected="adapter_model.safetensors") from error


def _weights(run_or_model: Any) -> str | None:
    """A hash of what is exported; None for a model in memory, which is exported anew each time."""
    if isinstance(run_or_model, tuple):
        return None
    if isinstance(run_or_model, Run):
        if run_or_model.settings["method"] == "full":
            return models.identity(run_or_model.folder / "model")
        return f"{run_or_model.settings['base']} + {_hash(run_or_model.folder / 'adapter')}"
    return models.identity(run_or_model)


def _made_of(folder: Path) -> dict | None:
    try:
        return json.loads((folder / FACTS).read_text(encoding="utf-8"))["made_of"]
    except (OSError, ValueError, KeyError):
        return None


def _prepare(run_or_model: Any, folder: Path) -> str:
    """Put merged fp32 weights and the tokenizer into a folder, and give the model's name."""
    if isinstance(run_or_model, Run) or isinstance(run_or_model, tuple):
        model, tokenizer = run_or_model.loaded if isinstance(run_or_model, Run) else run_or_model
        name = str(run_or_model.folder.name if isinstance(run_or_model, Run) else model.name_or_path or "model")
        with models.quiet():
            from peft import PeftModel

            merged = low_rank.merge(model) if isinstance(model, PeftModel) else model
            # The shapes on disk must be those of the config: a 4-bit base that was not merged has others.
            if getattr(merged, "is_quantized", False) and getattr(merged, "is_loaded_in_4bit", False):
                raise LabError("a 4-bit model in memory cannot be exported as it is", where="run_or_model",
                               todo="Export its Run, which merges in full precision, or load it without quantize")
            merged.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        return Path(name).name
    found = models.find(run_or_model)
    shutil.copytree(found, folder, symlinks=False,
                    ignore=lambda _, names: [n for n in names if not n.endswith((".json", ".safetensors", ".jinja",
                                                                                 ".model", ".txt"))])
    return Path(str(run_or_model)).name if run_or_model and Path(str(run_or_model)).is_dir() else found.name


def _build(source: Path, made: Path, precision: str, options: dict, name: str) -> None:
    """Run the builder, silently.

    Raises:
        LabError: it does not know the architecture, or trips over the model.
    """
    architecture = (json.loads((source / "config.json").read_text(encoding="utf-8")).get("architectures") or ["?"])[0]
    try:
        with _silence():
            from onnxruntime_genai.models.builder import create_model

            create_model(name, str(source), str(made), precision, "cpu", str(made.parent / "cache"), hf_token="false",
                         hf_remote=False, disable_qkv_fusion=True, **options)
    except NotImplementedError as error:
        raise LabError(f"onnxruntime-genai's builder does not know the architecture {architecture}", where=name,
                       expected="Llama, Qwen2, Qwen3, Phi-3, Gemma, Mistral and their kin",
                       todo="Take Olive's converter, which traces any model, though without a cache: `olive "
                            "capture-onnx-graph -m FOLDER --task text-generation --use_dynamo_exporter`") from error
    except Exception as error:
        raise LabError(f"onnxruntime-genai's builder cannot export this {architecture} "
                       f"({models.first_line(error)})", where=name) from error


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the builder's prints, bars and notes to itself."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), models.quiet():
            yield
    finally:
        logging.disable(logging.NOTSET)


def _settle(source: Path, made: Path) -> None:
    """What genai takes from the folder: greedy by default, the end of turn ends, the tokenizer is the source's own."""
    from labkit.models import end_of_turn, load_tokenizer

    file = made / "genai_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    end, known = end_of_turn(load_tokenizer(source)), settings["model"]["eos_token_id"]
    known = known if isinstance(known, list) else [known]
    settings["model"]["eos_token_id"] = [end, *(i for i in known if i not in (None, end))]
    settings["search"] |= {"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50, "num_beams": 1,
                           "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
    file.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (source / name).is_file():  # transformers may write them otherwise than it read them
            shutil.copy(source / name, made / name)


def _texts(source: Path, texts: Sequence[str] | None) -> list[list[int]]:
    """Token ids to calibrate on: the texts given, or prompts with answers of every so many-th training ticket."""
    from labkit.models import load_tokenizer

    if texts is None:
        mark = hashlib.sha256((source / "tokenizer.json").read_bytes()).hexdigest()
        if mark not in _shipped:
            _shipped[mark] = _tickets(load_tokenizer(source))
        return _shipped[mark]
    tokenizer = load_tokenizer(source)
    return [ids[:LONGEST] for text in texts if (ids := tokenizer(text, add_special_tokens=False)["input_ids"])]


_shipped: dict[str, list[list[int]]] = {}  # by tokenizer; a road of recipes asks for the same again and again


def _tickets(tokenizer: Any) -> list[list[int]]:
    from labkit.data import ticket_task
    from labkit.data.encode import encode_completion, encode_prompt

    found, tasks = [], ("tone", "reply")
    for name in tasks:
        rows = ticket_task(name).train
        rows = rows.select(range(0, len(rows), -(-len(rows) * len(tasks) // CALIBRATION)))
        found += [encode_prompt(tokenizer, r["prompt"]) + encode_completion(tokenizer, r["completion"]) for r in rows]
    return [ids[:LONGEST] for ids in found]


def _place_adapters(made: Path, adapters: Mapping[str, Path]) -> dict[str, int]:
    if not adapters:
        return {}
    model = graph.read(made)
    shapes = switched.place(model)
    graph.write(model, made)
    (made / ADAPTERS).mkdir()
    return {name: switched.convert(path, shapes, made / ADAPTERS / f"{name}.onnx_adapter")
            for name, path in adapters.items()}


def _agreement(source: Path, made: Path) -> dict[str, Any]:
    """Whether genai's tokenizer and template give what transformers' do; where not, OnnxModel takes those."""
    from labkit.data.template import render
    from labkit.models import load_tokenizer

    og, theirs = genai(), load_tokenizer(source)
    # The tokenizer wants a config beside it, not the model.
    own = og.Tokenizer(og.Model(str(made)))
    turns = [{"role": "user", "content": "Where is \"it\"?\n\nTT-17"}, {"role": "assistant", "content": "Größe <b>"},
             {"role": "user", "content": " ok "}]
    rendered = render(theirs, turns)
    strings = [*tokens.STRINGS, rendered]
    apart = tokens.gaps(lambda t: theirs(t, add_special_tokens=False)["input_ids"], own.encode, strings)
    try:
        said = own.apply_chat_template(json.dumps(turns, ensure_ascii=False), add_generation_prompt=True)
    except Exception:
        said = None
    return {"tokenizer": "tokenizers" if apart else "genai", "token_gaps": [text for text, _, _ in apart],
            "template": "genai" if said == rendered else "transformers"}
