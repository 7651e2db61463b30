"""Base models: find one by profile, folder or hub id, load it with its tokenizer, count its parameters.

First step of everything that trains, scores or exports: what comes out of `load` goes into all of those.
"""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from labkit import profiles
from labkit.errors import LabError
from labkit.memory import memory as memory  # models.memory(...): what a training will take
from labkit.profiles import PROFILES, Profile

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SMALL = PROFILES["small"].model
SAMPLE = 65_536  # bytes, of each piece of a weight file that `identity` reads
# What a hub may hand over: settings, tokenizer, weights as safetensors; nothing that is code or pickle.
PATTERNS = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
NOT_PATTERNS = ["*/*", "consolidated*"]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
# Whoever imports bitsandbytes on a CPU with bf16 instructions is told of an optional package.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
HUB_TIMEOUT = 10  # seconds for the hub's first answer
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Counts:
    """How many parameters a model has, and how many of them training changes."""

    total: int
    trainable: int

    @property
    def share(self) -> float:
        """Trainable parameters as a share of all, 0 to 1."""
        return self.trainable / self.total if self.total else 0.0


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the warnings and progress bars of the model libraries out of a notebook's output; errors still come."""
    from transformers.utils import logging as theirs

    level, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    # bitsandbytes tells at its import what it could not load; huggingface_hub tells of every retry.
    others = [(logger, logger.level) for logger in map(logging.getLogger, ("bitsandbytes", "huggingface_hub"))]
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    for logger, _ in others:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        theirs.set_verbosity(level)
        for logger, their_level in others:
            logger.setLevel(their_level)
        if bars:
            theirs.enable_progress_bar()


def load(
    profile_or_id: str | Path | Profile | None = None,
    quantize: Literal["nf4", "int8"] | None = None,
    dtype: str | torch.dtype | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a base model and its tokenizer, in eval mode, on this machine's device.

    Args:
        profile_or_id: a profile or its name, a local folder, or a hub id; None is the current profile.
        quantize: "nf4" (4 bits with double quantisation, as QLoRA) or "int8", both by bitsandbytes.
        dtype: of the weights that are not quantised; float32 by default, because an optimizer's small steps
            are lost in 16-bit master weights.

    Returns:
        The model and its tokenizer; padding side and token are left as the model's files have them.

    Raises:
        LabError: the model can't be found or reached, has no tokenizer, or has weights that are damaged,
            incomplete or pickled.
    """
    dtype_name = _dtype_name(dtype)
    if quantize not in (None, "nf4", "int8"):
        raise LabError(f"there is no quantisation {quantize!r}", where="quantize", expected="None, 'nf4' or 'int8'")
    folder = find(profile_or_id)
    with quiet():
        return _load_model(folder, quantize, dtype_name), load_tokenizer(folder)


def tokenizer(profile_or_id: str | Path | Profile | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer that `load` gives with a model, without the model.

    Raises:
        LabError: as `load`.
    """
    folder = find(profile_or_id)
    with quiet():
        return load_tokenizer(folder)


def find(profile_or_id: str | Path | Profile | None = None) -> Path:
    """The folder that holds a model's files; a hub model is downloaded first, if it isn't there yet.

    Raises:
        LabError: there is no such model, it can't be reached, or its files are not whole.
    """
    if profile_or_id is None or isinstance(profile_or_id, Profile) or profile_or_id in PROFILES:
        profile = profiles.named(profile_or_id)
        name, revision = profile.model, profile.revision
    else:
        name = str(profile_or_id)
        revision = next((p.revision for p in PROFILES.values() if p.model == name), None)

    if name == PROFILES["tiny"].model:
        folder = profiles.COURSE / "data" / name
        if not folder.is_dir():
            raise LabError("the tiny base model is not there", where=f"data/{name}", todo="Run `make base`")
    elif name == SMALL:
        folder = small_home()
        if not folder.is_dir():
            raise LabError(f"{SMALL} is not on this machine yet", where=str(folder), todo="Run `labkit fetch small`")
    elif _is_path(name):
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise LabError("there is no such folder", where=name, expected="a folder with a model in it, a profile "
                           "(tiny, small, full) or a hub id such as owner/name")
    else:
        return _from_hub(name, revision)
    check_folder(folder)
    return folder


def suiting(profile_or_id: str | Path | Profile | None = None) -> Profile:
    """The profile whose settings suit a model: its own, or that of the nearest size.

    A learning rate that suits two million parameters ruins a model of a hundred times as many.

    Raises:
        LabError: as `find`.
    """
    if profile_or_id is None or isinstance(profile_or_id, Profile) or profile_or_id in PROFILES:
        return profiles.named(profile_or_id)
    if known := [profile for profile in PROFILES.values() if profile.model == str(profile_or_id)]:
        return known[0]
    size = math.log(max(1, parameters_in(find(profile_or_id))))
    return min(PROFILES.values(), key=lambda profile: abs(math.log(profile.parameters) - size))


def matrix(name: str, profile_or_id: str | Path | Profile | None = None) -> torch.Tensor:
    """One tensor of a model's weights as float32, read from its file without loading the rest.

    Args:
        name: as in the file, such as "model.layers.0.self_attn.q_proj.weight".

    Raises:
        LabError: as `find`, or there is no such tensor.
    """
    from safetensors import safe_open

    for file in _weight_files(folder := find(profile_or_id)):
        with safe_open(file, framework="pt") as opened:
            if name in opened.keys():
                return opened.get_tensor(name).float()
    raise LabError(f"no weight is called {name}", where=str(folder),
                   expected="such as model.layers.0.self_attn.q_proj.weight")


def parameters_in(folder: Path) -> int:
    """How many numbers a model's safetensors hold, read from their heads alone."""
    from safetensors import safe_open

    total = 0
    for file in _weight_files(folder):
        with safe_open(file, framework="numpy") as opened:
            total += sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())
    return total


def identity(profile_or_id: str | Path | Profile | None = None) -> str:
    """A short hash that tells one base model from another: of its config and of samples of its weights.

    Raises:
        LabError: as `find`.
    """
    folder = find(profile_or_id)
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for file in _weight_files(folder):
        size = file.stat().st_size
        digest.update(str(size).encode())
        with file.open("rb") as opened:
            for place in range(0, size, max(SAMPLE, size // 64)):  # all of a small file, some of a large one
                opened.seek(place)
                digest.update(opened.read(SAMPLE))
    return digest.hexdigest()[:16]


def small_home() -> Path:
    """Where the model of the profile `small` lies in the user's cache, fetched or not."""
    return profiles.cache() / SMALL.split("/")[1]


def here(name: str) -> bool:
    """Whether a profile's base model can be loaded without a network.

    Raises:
        LabError: no such profile.
    """
    profile = profiles.named(name)
    if profile.name == "small":
        return small_home().is_dir()
    return profile.name == "tiny"


def check_folder(folder: Path) -> None:
    """See, without loading anything big, that a folder holds settings, tokenizer and whole safetensors.

    Raises:
        LabError: naming the first thing that is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    where = str(folder)
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise LabError("this is an adapter, not a base model", where=where,
                           todo="Load its base model first, then attach the adapter to it")
        raise LabError("no config.json", where=where, expected="a model folder as `save_pretrained` writes it")
    config = _read_json(folder / "config.json")
    if "model_type" not in config:
        raise LabError("no model_type, so nobody can tell the architecture", where=str(folder / "config.json"))
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise LabError("no tokenizer", where=where, expected=f"one of {', '.join(TOKENIZER_FILES)}",
                       todo="Save the tokenizer there too: tokenizer.save_pretrained(folder)")
    for file in _weight_files(folder):
        if not file.is_file():
            raise LabError("this part of the weights is missing", where=str(file), todo="Fetch the model again")
        try:
            with safe_open(file, framework="numpy"):  # reads the header and compares the length with it
                pass
        except (SafetensorError, OSError) as error:
            raise LabError(f"the weights are damaged ({first_line(error)})", where=str(file),
                           expected=f"a whole safetensors file, but it has {file.stat().st_size:,} bytes",
                           todo="Fetch or copy the model again") from error


def count_parameters(model: torch.nn.Module) -> Counts:
    """Count parameters: tied weights once, 4-bit weights by the numbers they stand for rather than by bytes.

    Args:
        model: any module, quantised by bitsandbytes or not.

    Returns:
        Counts of all parameters and of those with `requires_grad`.
    """
    total = trainable = 0
    for parameter in model.parameters():  # yields a tied parameter once
        # Packed 4-bit weights are bytes, two numbers each; the shape before packing is in their quant_state.
        state = getattr(parameter, "quant_state", None)
        size = state.shape.numel() if state is not None else parameter.numel()
        total += size
        trainable += size if parameter.requires_grad else 0
    return Counts(total, trainable)


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token id that ends an assistant's turn, as the chat template writes it (SmolLM2: `<|im_end|>`, 2).

    It is what training must count and generation must stop at; `eos_token` may be another one.

    Raises:
        LabError: there is no chat template, or it puts no special token behind an answer.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise LabError("the tokenizer has no chat template", where=str(getattr(tokenizer, "name_or_path", "")),
                       todo="Take an instruction-tuned model, or set tokenizer.chat_template")
    answer = "labkitanswer"  # one plain word, which no template trims or rewrites
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "question"}, {"role": "assistant", "content": answer}], tokenize=False
    )
    special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= set(tokenizer.all_special_ids)
    for id in tokenizer(text.rpartition(answer)[2], add_special_tokens=False)["input_ids"]:
        if id in special:
            return id
    raise LabError("the chat template puts no special token behind an assistant's answer",
                   where=str(getattr(tokenizer, "name_or_path", "")),
                   todo="End the assistant's turn with a special token in tokenizer.chat_template")


def _load_model(folder: Path, quantize: str | None, dtype: str) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM

    device = profiles.device()
    if device == "cuda":  # a Trainer and its model hold each other, and a GPU that fills up does not make Python look
        gc.collect()
    options = {"dtype": getattr(torch, dtype)}
    if quantize:
        options |= {"quantization_config": _bitsandbytes(quantize), "device_map": {"": device}}
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder, use_safetensors=True, trust_remote_code=False, local_files_only=True, output_loading_info=True,
            **options,
        )
        if not quantize:
            model.to(device)
    except torch.OutOfMemoryError as error:
        raise LabError("the model does not fit into the GPU's memory", where=str(folder),
                       todo="Take a smaller profile, dtype='bfloat16' or quantize='nf4'") from error
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise LabError(f"transformers cannot load this model ({first_line(error)})", where=str(folder)) from error
    # transformers only warns of these two; weights that are made up at random ruin every figure after them.
    if missing := sorted(report["missing_keys"]):
        raise LabError(f"the weights lack {len(missing)} tensors that config.json asks for, first {missing[0]}",
                       where=str(folder), expected="weights and config.json of the same model")
    if extra := sorted(report["unexpected_keys"]):
        raise LabError(f"the weights hold {len(extra)} tensors that config.json has no place for, first {extra[0]}",
                       where=str(folder), expected="weights and config.json of the same model")
    return settled(model).eval()


def settled(model: PreTrainedModel) -> PreTrainedModel:
    """The model, its 4-bit layers kept from changing themselves when they first answer.

    On a CPU with bf16 instructions bitsandbytes packs their codes then, for one kernel alone: from there on they pass
    no gradient back, merge into nonsense and are saved with other scales, and nothing tells. And it rounds their biases
    to the dtype that they compute in; here this is done at once.

    Raises:
        LabError: they are packed already.
    """
    for name, layer in model.named_modules():
        if getattr(getattr(layer, "weight", None), "quant_state", None) is None:
            continue
        if getattr(layer.weight.quant_state, "packing_format_for_cpu", False):
            raise LabError("the 4-bit weights are packed for this CPU, since the model has answered before; they pass "
                           "no gradient back", where=name, todo="Load it by labkit.models.load(..., quantize='nf4')")
        layer.support_avx512bf16_for_cpu = False
        if layer.bias is not None and getattr(layer, "compute_dtype", None) is not None:
            layer.bias.data = layer.bias.data.to(layer.compute_dtype)
    return model


@contextmanager
def in_float32(model: torch.nn.Module) -> Iterator[None]:
    """While it is entered, 4-bit layers multiply in float32, so that their answers can be compared closely.

    `load` lets them multiply in what the machine is quick in. In 16 bits a GPU rounds otherwise in another batch, and
    by more than a merge changes.
    """
    import torch

    layers = [layer for layer in model.modules() if getattr(getattr(layer, "weight", None), "quant_state", None)
              is not None and getattr(layer, "compute_dtype", None) is not None]
    was = [(layer, layer.compute_dtype, getattr(layer.bias, "dtype", None)) for layer in layers]
    for layer in layers:
        layer.compute_dtype = torch.float32
    try:
        yield
    finally:
        for layer, computed, bias in was:
            layer.compute_dtype = computed
            if bias is not None:  # which the layer casts itself; the values are those that it had
                layer.bias.data = layer.bias.data.to(bias)


def _bitsandbytes(quantize: str):
    import torch
    from transformers import BitsAndBytesConfig

    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise LabError("bitsandbytes is not installed, and quantize needs it", where="quantize",
                       todo="Run `pip install bitsandbytes`; there is none for Intel Macs") from error
    if quantize == "int8":
        # It says at every layer of every step that it computes in float16; once, here, is enough.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                              bnb_4bit_compute_dtype=getattr(torch, profiles.compute_dtype()))


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, splitting text as its file says.

    Raises:
        LabError: it is damaged, or there is none.
    """
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        file = folder / "tokenizer.json"
        if file.is_file() and hasattr(tokenizer, "backend_tokenizer"):
            # transformers 5 rebuilds some classes (GPT2Tokenizer, which SmolLM2 names) with their own way of
            # splitting: "\n\n1" becomes other tokens than the model was trained on. The file is what counts.
            written = Tokenizer.from_file(str(file))
            if _splitting(tokenizer.backend_tokenizer) != _splitting(written):
                tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare Exception for a damaged file
        raise LabError(f"the tokenizer cannot be read ({first_line(error)})", where=str(folder)) from error
    return tokenizer


def _splitting(tokenizer) -> tuple[bytes | None, ...]:
    parts = (tokenizer.normalizer, tokenizer.pre_tokenizer)
    return tuple(part.__getstate__() if part is not None else None for part in parts)


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    wanted = {"repo_id": name, "revision": revision, "allow_patterns": PATTERNS, "ignore_patterns": NOT_PATTERNS}
    expected = "a profile (tiny, small, full), a folder, or a hub id such as owner/name"
    try:
        try:  # what was downloaded before works without a network, and is the same tomorrow
            folder = Path(snapshot_download(**wanted, local_files_only=True))
            check_folder(folder)
            return folder
        except (LocalEntryNotFoundError, LabError):
            if constants.HF_HUB_OFFLINE:
                raise
            # Asked once and first: a download asks again and again, for half a minute, before it gives up.
            HfApi().model_info(name, revision=revision, timeout=HUB_TIMEOUT)
            with _no_half_files(name), quiet():
                folder = Path(snapshot_download(**wanted))
    except HFValidationError as error:
        raise LabError("this is no model's name", where=name, expected=expected) from error
    except GatedRepoError as error:
        raise LabError("this model is only given out to those who accepted its licence", where=name,
                       todo=f"Sign in at https://huggingface.co/{name}, accept the licence there, make a token "
                            "that may read, and give it to `hf auth login`; or take another profile") from error
    except RevisionNotFoundError as error:
        raise LabError(f"this model has no revision {revision!r}", where=name) from error
    except RepositoryNotFoundError as error:
        raise LabError("the hub has no model of this name, or it is private", where=name, expected=expected) from error
    except Exception as error:  # no network, time-out, server error: each a class of its own, by library version
        behind = error if isinstance(error, HfHubHTTPError) else error.__cause__  # what a download wraps
        if isinstance(behind, HfHubHTTPError) and behind.response.status_code in (401, 403):
            raise LabError(f"the hub does not let you have this model ({behind.response.status_code})", where=name,
                           todo="Run `hf auth login` with a token that may read it, or `hf auth logout` if the token "
                                "is an old one") from error
        raise LabError(f"the hub cannot be reached, and no such folder is here ({first_line(error)})", where=name,
                       expected=expected, todo="Connect to the network, or take the profile tiny") from error
    check_folder(folder)
    return folder


@contextmanager
def _no_half_files(name: str) -> Iterator[None]:
    """Where a download breaks off, clear away the pieces of files that it leaves in the hub's cache."""
    from huggingface_hub import constants

    try:
        yield
    except Exception:
        for piece in (Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}").rglob("*.incomplete"):
            piece.unlink(missing_ok=True)
        raise


def _weight_files(folder: Path) -> list[Path]:
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return [folder / name for name in sorted(set(_read_json(index).get("weight_map", {}).values()))]
    if pickles := sorted(file.name for pattern in PICKLES for file in folder.glob(pattern)):
        raise LabError(f"only pickled weights ({', '.join(pickles)}), which can run code when they are opened",
                       where=str(folder), expected="model.safetensors", todo="Convert them, or take another model")
    raise LabError("no weights", where=str(folder), expected="model.safetensors")


def _read_json(file: Path) -> dict:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LabError(f"this file cannot be read as JSON ({first_line(error)})", where=str(file)) from error
    if not isinstance(content, dict):
        raise LabError("this file does not hold a JSON object", where=str(file))
    return content


def _is_path(name: str) -> bool:
    return Path(name).is_dir() or name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1


def _dtype_name(dtype: str | torch.dtype | None) -> str:
    name = str(dtype or "float32").removeprefix("torch.")
    if name not in DTYPES:
        raise LabError(f"weights cannot be kept as {name!r}", where="dtype", expected=", ".join(DTYPES))
    return name


def first_line(error: BaseException) -> str:
    """The first line of a library's error, without its full stop, to be told inside a sentence."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
