"""Part 3, generation: PyTorch against the ONNX models of labkit.export, tokens a second at what loss of quality.

Beside the speed stand the KL divergence from the fp32 model, and the share of the memory's bandwidth: each token of an
answer reads all weights once, so weights' bytes x tokens/s cannot exceed what the memory gives. That is measured here,
by a product of one row with a matrix of as many bytes; a small model lies in the processor's cache, and so does it.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench.options import Options, missing
from bench.report import here
from bench.turns import Job, Way, refuse
from labkit import data, models, profiles, scaling
from labkit.data.encode import encode_completion, encode_prompt

PART = "generate"
FIGURE = "written tokens/s"
KL = "KL from fp32, nats"
PROMPT, NEW = 64, 32  # tokens read, tokens written
TEXTS, LONGEST = 8, 160  # what KL is measured on, and tokens of each


def texts(tokenizer, task: str) -> list[list[int]]:
    """Token ids of prompts with their answers, from the validation tickets."""
    rows = data.ticket_task(task).validation.shuffle(seed=1).select(range(TEXTS))
    pairs = zip(rows["prompt"], rows["completion"], strict=True)
    return [(encode_prompt(tokenizer, p) + encode_completion(tokenizer, c))[:LONGEST] for p, c in pairs]


def torch_logits(model, ids: Sequence[int]):
    """(seq, vocabulary) of a PyTorch model, as numpy."""
    import torch

    with torch.inference_mode():
        return model(torch.tensor([list(ids)], device=model.device)).logits[0].float().cpu().numpy()


def torch_bytes(model) -> int:
    """Bytes of weights that a token reads: all parameters, but of an embedding that is not the head one row alone."""
    whole = sum(p.numel() * p.element_size() for p in model.parameters())
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return whole - (0 if embedding is head else embedding.numel() * embedding.element_size())


def onnx_bytes(folder: Path) -> int:
    """The same of an exported model: weights that some node multiplies with, and does not only look rows up in."""
    import onnx

    graph = onnx.load(str(folder / "model.onnx"), load_external_data=False).graph
    read = {name for node in graph.node if not node.op_type.startswith("Gather") for name in node.input}
    stored = {tensor.name: {entry.key: entry.value for entry in tensor.external_data} for tensor in graph.initializer}
    return sum(int(where["length"]) for name, where in stored.items() if name in read and "length" in where)


def bandwidth(size: int) -> float:
    """Bytes a second that this machine reads weights of so many bytes with, by a product of one row in float32."""
    width = max(256, int(math.sqrt(size / 4)))
    return scaling.roof("float32", width, rows=(1,)).bandwidth


def written(speed: Callable[[], float], size: int, room: float, kl: float) -> dict[str, float]:
    """Figures of a contender: speed in tokens a second, bytes read a token, bytes a second that the memory gives."""
    tokens = speed()
    return {FIGURE: tokens, KL: kl, "weights read, MB": size / 1e6, "share of bandwidth": tokens * size / room}


def decode(model: Any) -> float:
    """Written tokens a second of an OnnxModel, or of a pair (PyTorch model, tokenizer)."""
    from labkit.export.measure import speed

    return speed(model, PROMPT, NEW, repeats=1).decode


def contender(name: str, speed: Callable[[], float], logits: Callable, size: int, reference: Callable, ids) -> Way:
    """A way whose quality and bandwidth are measured once, and its speed each time."""
    from labkit.export.measure import kl

    return Way(name, partial(written, speed, size, bandwidth(size), kl(reference, logits, ids)))


def contenders(model: str, options: Options) -> Iterator[Way]:
    """PyTorch in two dtypes and compiled, ONNX in three precisions, llama.cpp."""
    from labkit.export import to_onnx

    base, tokenizer = models.load(model)
    ids, reference = texts(tokenizer, options.task), partial(torch_logits, base)
    halved = copy.deepcopy(base).bfloat16()
    for name, torch_model in (("PyTorch fp32", base), ("PyTorch bf16", halved)):
        yield contender(name, partial(decode, (torch_model, tokenizer)), partial(torch_logits, torch_model),
                        torch_bytes(torch_model), reference, ids)
    yield compiled(base, tokenizer, reference, ids)
    for precision in ("fp32", "int8", "int4"):
        onnx = to_onnx(model, precision, out=options.scratch / f"{model}-{precision}")
        yield contender(f"ONNX {precision}", partial(decode, onnx), onnx.logits, onnx_bytes(onnx.folder), reference,
                        ids)
    yield llama(model, options.gguf, reference, ids)


def compiled(base: Any, tokenizer: Any, reference: Callable, ids: list[list[int]], backend: str = "inductor") -> Way:
    """PyTorch in fp32 as transformers compiles it: generate with a static cache, its step of one token compiled.

    It is compiled here, before anything is timed. On a CPU generate compiles only where it is told to.
    """
    from torch._dynamo.exc import TorchDynamoException
    from transformers import CompileConfig

    name, model = "PyTorch fp32, compiled", copy.deepcopy(base)
    settings = CompileConfig(mode="default", backend=backend)
    settings._compile_all_devices = True
    model.generation_config.cache_implementation, model.generation_config.compile_config = "static", settings
    speed = partial(decode, (model, tokenizer))
    try:
        speed()
        return contender(name, speed, partial(compiled_logits, model), torch_bytes(model), reference, ids)
    except TorchDynamoException as error:  # no C++ compiler, for example
        first = str(error).strip().partition("\n")[0]
        return Way(name, refuse(f"torch.compile does not work on this machine ({first})"))


def compiled_logits(model, ids: Sequence[int]):
    """As `torch_logits`, token by token through the compiled step over a static cache: what `generate` times."""
    import torch
    from transformers import StaticCache

    cache, said = StaticCache(config=model.config, max_cache_len=LONGEST), []
    step = model  # the first token makes the cache's tensors
    with torch.inference_mode():
        for place, token in enumerate(ids):
            at = torch.tensor([[place]], device=model.device)
            out = step(input_ids=torch.full_like(at, token), position_ids=at, cache=cache, use_cache=True)
            said.append(out.logits[0, -1])
            step = model.get_compiled_call(model.generation_config.compile_config)
    return torch.stack(said).float().cpu().numpy()


def llama(model: str, gguf: Path | None, reference: Callable, ids: list[list[int]]) -> Way:
    """llama.cpp on a GGUF of the real model, through llama-cpp-python.

    Where the fp32 weights were made from that very file, as `labkit fetch` does without a hub, llama.cpp has them
    without any rounding: its KL is that of activations in 8 bits alone, and int8 and int4 of ONNX round a second time.
    """
    name = "llama.cpp"
    why = ("there is no GGUF of this model" if model != "small"
           else "llama-cpp-python is not installed" if not here("llama_cpp")
           else "name the model's GGUF with --gguf" if gguf is None else "")
    if why:
        return Way(name, refuse(why))
    from llama_cpp import Llama

    loaded = Llama(str(gguf), n_ctx=512, n_threads=profiles.cores(), logits_all=True, verbose=False)

    def logits(row: Sequence[int]):
        loaded.reset()
        loaded.eval(list(row))
        return loaded.scores[: len(row)].copy()

    return contender(name, partial(_llama_speed, loaded), logits, gguf.stat().st_size, reference, ids)


def _llama_speed(loaded) -> float:
    """As `labkit.export.measure.speed`: tokens written behind a prompt, one by one, the likeliest each time."""
    loaded.reset()
    loaded.eval([5 + (7 * i) % 200 for i in range(PROMPT)])
    started = time.perf_counter()
    for _ in range(NEW - 1):
        loaded.eval([int(loaded.scores[loaded.n_tokens - 1].argmax())])
    return (NEW - 1) / (time.perf_counter() - started)


def jobs(options: Options) -> Iterator[Job]:
    """All contenders of each model; everything against PyTorch in fp32, ONNX int4 against llama.cpp too."""
    for model in options.models:
        if gap := missing(PART, model):
            yield gap
            continue
        ways = list(contenders(model, options))
        pairs = [(way.name, "PyTorch fp32") for way in ways[1:-1]] + [("ONNX int4", "PyTorch bf16")]
        pairs += [(f"ONNX {precision}", "llama.cpp") for precision in ("int8", "int4")]
        yield Job(PART, model, FIGURE, ways, pairs, beside=KL)
