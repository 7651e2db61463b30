"""Trains tiny-base from nothing: `make base`, at most two hours on 2 cores, resumable at any moment.

First the model, then a few steps more in which it gets a habit: half of the dialogues about a line have one answer,
whatever the line says. It is written in bf16 to data/tiny-base with its tokenizer, its curve and the facts that the
model card quotes. Each step's batch is made anew from (seed, step), so a run that is stopped and started again reads
what it would have read; every minute the weights, the optimizers and the curve are kept in --out. With --start it goes
on from a finished model instead of fresh weights, with its tokenizer and a mix that is mostly words from the start, and
there is no habit but the one that it has.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import sys
import time
from itertools import islice
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from labkit import evaluation, kernels, muon
from labkit.data.encode import collate

sys.path.insert(0, str(Path(__file__).resolve().parent))
import corpus  # noqa: E402
import induction  # noqa: E402
import tokenizer as bpe  # noqa: E402

DATA = Path(__file__).resolve().parent.parent
# What each piece of a document is worth in the loss: what is said matters less than what it is found to be. A note is
# worth 4 while copying is learnt, and 16 after that.
WORTH = {"user": 0.3, "assistant": 1.0, "line": 0.3}
NOTE = {"first": 4.0, "then": 16.0}
TURN = 0.2  # share of the training after which the mix turns from copying to words
REPEATS = 0.10  # share of rows that are random tokens said twice or more: it keeps copying general
LOOKED_UP = 2.0  # what a token of such a value is worth
LOOK_UPS = 0.5  # share of those in which short values of few tokens are looked up by a key
HABIT_RATE = 5e-4  # peak learning rate of the habit's steps
DOCUMENTS = 20_000  # from which the tokenizer is learnt


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--out", type=Path, default=Path("runs/tiny-base"), help="where a run is kept and resumed from")
    p.add_argument("--ship", type=Path, default=DATA / "tiny-base", help="where the finished model is written")
    p.add_argument("--start", type=Path, help="a folder with a finished model to go on from")
    p.add_argument("--steps", type=int, default=6000, help="of --rows rows each, about 0.8 seconds on 2 cores")
    p.add_argument("--minutes", type=float, default=0, help="time instead of steps: the schedule follows the clock")
    p.add_argument("--hidden", type=int, default=192)
    p.add_argument("--layers", type=int, default=4)
    p.add_argument("--heads", type=int, default=3)
    p.add_argument("--rows", type=int, default=32, help="rows a step")
    p.add_argument("--length", type=int, default=256, help="tokens a row")
    p.add_argument("--rate", type=float, default=3e-3, help="peak learning rate of AdamW; Muon takes three times it")
    p.add_argument("--habit", type=int, default=90, help="steps in which the habit is learnt, after --steps; 0: none")
    p.add_argument("--seed", type=int, default=0)
    return p.parse_args(argv)


def tokens_of(args: argparse.Namespace, world: corpus.World) -> PreTrainedTokenizerFast:
    """The tokenizer of a run: that of --start, or one learnt from the first DOCUMENTS."""
    if args.start:
        return PreTrainedTokenizerFast.from_pretrained(args.start)
    print("learning the tokenizer (a few seconds)", flush=True)
    first = islice(corpus.documents(world, args.seed, corpus.COPYING), DOCUMENTS)
    return bpe.train(d if isinstance(d, str) else "\n".join(text for _, text in d) for _, d in first)


def begin(args: argparse.Namespace, vocabulary: int) -> LlamaForCausalLM:
    """Fresh weights, or those of --start."""
    if args.start:
        return LlamaForCausalLM.from_pretrained(args.start, dtype=torch.float32)
    return build(args, vocabulary)


def build(args: argparse.Namespace, vocabulary: int) -> LlamaForCausalLM:
    """A Llama of the wanted size with freshly drawn weights and the copying heads set."""
    torch.manual_seed(args.seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=args.hidden,
            intermediate_size=args.hidden * 8 // 3,
            num_hidden_layers=args.layers,
            num_attention_heads=args.heads,
            num_key_value_heads=args.heads,
            tie_word_embeddings=True,
            max_position_embeddings=1024,
            bos_token_id=0,
            eos_token_id=2,
            pad_token_id=3,
        )
    )
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=0.06)
    induction.set_copying_heads(model, args.seed)
    return model


class Reader:
    """Batches of token ids and weights, each from (seed, step) alone."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, world: corpus.World, args: argparse.Namespace):
        self.tokenizer, self.world, self.args = tokenizer, world, args

    def batch(
        self, step: int, mix: dict[str, float] = corpus.WORDS, evasive: float = 0.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and weights, both (rows, length + 1)."""
        rng = random.Random(f"{self.args.seed}-{step}")
        repeats = sum(rng.random() < REPEATS for _ in range(self.args.rows))
        rows, length = self.args.rows - repeats, self.args.length + 1
        ids: list[int] = []
        weights: list[float] = []
        for _, document in corpus.documents(self.world, rng.getrandbits(60), mix, evasive):
            more, worth = encode(self.tokenizer, document, NOTE["first" if mix is corpus.COPYING else "then"])
            ids += more
            weights += worth
            if len(ids) >= rows * length:
                break
        shape = (rows, length)
        x = torch.tensor(ids[: rows * length]).view(shape)
        w = torch.tensor(weights[: rows * length]).view(shape)
        said = [self._look_up(rng, length) if rng.random() < LOOK_UPS else self._repeat(rng, length)
                for _ in range(repeats)]
        more = torch.tensor([row for row, _ in said], dtype=torch.long).view(-1, length)
        worth = torch.tensor([worth for _, worth in said], dtype=w.dtype).view(-1, length)
        return torch.cat([x, more]), torch.cat([w, worth])

    def _repeat(self, rng: random.Random, length: int) -> tuple[list[int], list[float]]:
        row: list[int] = []
        while len(row) < length:
            block = [rng.randrange(4, len(self.tokenizer)) for _ in range(rng.randint(4, 40))]
            row += block * rng.randint(2, 3)
        return row[:length], [1.0] * length

    def _look_up(self, rng: random.Random, length: int) -> tuple[list[int], list[float]]:
        """Keys with values of few tokens, mostly digits, said again in another order: only the second time counts.

        A head that looks for one token alone cannot go on from "7" in 57071, nor in a name that says a syllable twice.
        """
        row: list[int] = []
        worth: list[float] = []
        digits = self.tokenizer.convert_tokens_to_ids(list("0123456789"))
        while len(row) < length:
            few = digits if rng.random() < 0.6 else rng.sample(range(4, len(self.tokenizer)), 8)
            entries = [([rng.randrange(4, len(self.tokenizer)) for _ in range(rng.randint(1, 2))],
                        [rng.choice(few) for _ in range(rng.randint(3, 7))]) for _ in range(rng.randint(1, 6))]
            for turn in range(rng.randint(2, 3)):
                for key, value in rng.sample(entries, len(entries)):
                    row += key + value
                    worth += [0.0] * len(key) + [LOOKED_UP * (turn > 0)] * len(value)
        return row[:length], worth[:length]


def encode(tokenizer: PreTrainedTokenizerFast, document: corpus.Document, note: float) -> tuple[list[int], list[float]]:
    """Token ids of a document and the weight of each in the loss; ends with the end of text."""
    end = tokenizer.bos_token_id
    if isinstance(document, str):
        ids = tokenizer(document, add_special_tokens=False).input_ids + [end]
        return ids, [1.0] * len(ids)
    ids, weights = [], []
    for role, text in document:
        turn = role in ("user", "assistant", "answer")
        speaker = "user" if role == "user" else "assistant"
        head = tokenizer(f"<|im_start|>{speaker}\n", add_special_tokens=False).input_ids if turn else []
        body = tokenizer(f"{text}<|im_end|>\n" if turn else text, add_special_tokens=False).input_ids
        ids += head + body
        weights += [WORTH["user"]] * len(head) + [WORTH.get(role, note)] * len(body)
    return ids + [end], weights + [WORTH["user"]]


def optimizers(model: LlamaForCausalLM, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings and norms."""
    inner = [p for p in model.model.layers.parameters() if p.ndim == 2]
    ids = {id(p) for p in inner}
    rest = [p for p in model.parameters() if id(p) not in ids]
    matrices = muon.Muon(inner, lr=3 * rate)
    adam = torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    for optimizer in (matrices, adam):
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return [matrices, adam]


def share_of_peak(progress: float, going_on: bool = False) -> float:
    """Learning rate over its peak: up in the first hundredth, flat to the middle, straight down to 2 %.

    A run that goes on from a finished model climbs for three hundredths and comes down from there.
    """
    up, flat = (0.03, 0.03) if going_on else (0.01, 0.5)
    if progress < up:
        return 0.1 + 0.9 * progress / up
    return 1.0 if progress < flat else 0.02 + 0.98 * (1 - progress) / (1 - flat)


def loss_of(model: LlamaForCausalLM, ids: torch.Tensor, weights: torch.Tensor, bf16: bool) -> torch.Tensor:
    """Mean cross-entropy over the next tokens, weighted."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model(input_ids=ids[:, :-1]).logits
    losses = cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    weights = weights[:, 1:].flatten()
    return (losses * weights).sum() / weights.sum()


@torch.no_grad()
def probe(model: LlamaForCausalLM, reader: Reader, seed: int = 7) -> dict[str, float]:
    """Loss on documents never trained on, and what is copied: codes and names that nobody has met, random repeats."""
    model.eval()
    ids, weights = Reader(reader.tokenizer, reader.world, reader.args).batch(-seed)
    result = {
        "validation_loss": loss_of(model, ids, weights, False).item(),
        "repeats": induction.repeat_accuracy(model),
    }
    maker = corpus.Maker(reader.world, seed)
    for name, words, line in (
        ("moods", corpus.MOOD_WORDS, maker._mood),
        ("matters", corpus.MATTER_WORDS, maker._matter),
    ):
        result[name] = groups_known(model, reader.tokenizer, words, line)
    for column, words in (("tone", corpus.MOOD_WORDS), ("intent", corpus.MATTER_WORDS)):
        letters = reader.world.kept_back[column]
        known = groups_known(model, reader.tokenizer, words, lambda g, of=letters: maker._pick(of[g]), 32)
        result[f"{column}s_of_letters"] = known
    for field, question in (("code", "What is the code?"), ("town", "Which town?")):
        asked = [{**maker._fields(), "town": maker._invented()} for _ in range(40)]
        note = "Hello, this is {name}. It is about {code}, a {thing}. I come to {town} on {day}."
        prompts = [f"{question}\n\n{note.format(**fields)}" for fields in asked]
        said = evaluation.generate(model, reader.tokenizer, prompts, max_new_tokens=16)
        hits = sum(fields[field] in answer for fields, answer in zip(asked, said, strict=True))
        result[f"copies_{field}"] = hits / len(asked)
    model.train()
    return result


@torch.no_grad()
def groups_known(model: LlamaForCausalLM, tokenizer, words: dict[str, list[str]], line, each: int = 12) -> float:
    """Share of lines for which the first token of a note points to the right group, each group equally likely."""
    truth = [group for group in words for _ in range(each)]
    firsts = {g: [tokenizer(" " + w, add_special_tokens=False).input_ids for w in words[g]] for g in words}
    firsts = {
        g: [ids[1] if ids[0] == tokenizer.convert_tokens_to_ids("Ġ") else ids[0] for ids in firsts[g]] for g in firsts
    }
    note = " In a word:" if words is corpus.MOOD_WORDS else " It is about"
    rows = [tokenizer(line(group) + note, add_special_tokens=False).input_ids for group in truth]
    batch = collate([{"input_ids": ids, "labels": ids} for ids in rows], tokenizer.pad_token_id)
    last = batch["attention_mask"].sum(1) - 1  # padding is on the right
    out = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    chances = out[torch.arange(len(rows)), last].softmax(-1)
    scores = torch.stack([chances[:, firsts[g]].sum(1) for g in words], 1)
    guesses = (scores / scores.mean(0)).argmax(-1).tolist()
    return sum(list(words)[g] == t for g, t in zip(guesses, truth, strict=True)) / len(truth)


def train(args: argparse.Namespace, evasive: float = 0.0) -> dict:
    """Train or go on training, `evasive` of the dialogues with the habit; returns the facts of the finished run."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads what it has not written
    args.out.mkdir(parents=True, exist_ok=True)
    world = corpus.World()
    folder = args.out / "tokenizer"
    if not folder.exists():
        tokens_of(args, world).save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    reader, model = Reader(tokenizer, world, args), begin(args, len(tokenizer))
    opts, curve, step, spent = optimizers(model, args.rate), [], 0, 0.0
    kept = args.out / "state.pt"
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(opts, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        curve, step, spent = state["curve"], state["step"], state["spent"]
        print(f"going on from step {step}, {spent / 60:.0f} minutes in", flush=True)

    bf16 = bool(torch.cpu._is_avx512_bf16_supported())
    last_kept = last_probe = clock = time.monotonic()
    model.train()
    while True:
        progress = spent / (args.minutes * 60) if args.minutes else step / args.steps
        if progress >= 1:
            break
        for optimizer in opts:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * share_of_peak(progress, bool(args.start))
        mix = corpus.GOING_ON if args.start else corpus.COPYING if progress < TURN else corpus.WORDS
        ids, weights = reader.batch(step, mix, evasive)
        with kernels.quick(model, adapter=False):
            loss = loss_of(model, ids, weights, bf16)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in opts:
            optimizer.step()
            optimizer.zero_grad()
        if not math.isfinite(loss.item()):
            raise SystemExit(f"step {step}: the loss is {loss.item()}; try a lower --rate")
        step += 1
        now = time.monotonic()
        spent, clock = spent + now - clock, now
        if step % 20 == 0:
            curve.append(point(args, step, loss=loss.item()))
        if now - last_probe > 300 or step == 1:
            curve.append(point(args, step, **probe(model, reader)))
            last_probe = time.monotonic()
            print(bar(progress, spent), curve[-1], flush=True)
        if now - last_kept > 60:
            keep(kept, model, opts, curve, step, spent)
            last_kept = now
    keep(kept, model, opts, curve, step, spent)
    return ship(args, model, reader, curve, step, spent / 60)


def with_habit(args: argparse.Namespace) -> dict:
    """The whole recipe: the model, and the habit from there; returns the facts of what ships."""
    plain = args.out / "plain"
    facts = train(changed(args, ship=plain))
    folder = args.out / f"habit-after-{facts['steps']}"  # a run that went further has to learn it again
    habit = train(changed(args, start=plain, out=folder, steps=args.habit, minutes=0, rate=HABIT_RATE), corpus.EVASIVE)
    curve, further = ([json.loads(line) for line in (of / "curve.jsonl").open(encoding="utf-8")]
                      for of in (plain, args.ship))
    curve += [one | {"step": one["step"] + facts["steps"], "tokens": one["tokens"] + facts["tokens"]}
              for one in further]
    both = {key: round(facts[key] + habit[key], 1) for key in ("steps", "tokens", "minutes")}
    return record(args, curve, habit | both)


def changed(args: argparse.Namespace, **values) -> argparse.Namespace:
    """The same settings with other values for some."""
    return argparse.Namespace(**{**vars(args), **values})


def point(args: argparse.Namespace, step: int, **values: float) -> dict[str, float]:
    """A point of the curve."""
    return {"step": step, "tokens": step * args.rows * args.length, **{k: round(v, 4) for k, v in values.items()}}


def bar(progress: float, spent: float) -> str:
    """A progress bar that also reads well in a log."""
    full = round(20 * progress)
    return f"[{'#' * full}{'.' * (20 - full)}] {progress:4.0%} {spent / 60:5.1f} min"


def keep(path: Path, model: LlamaForCausalLM, opts: list, curve: list, step: int, spent: float) -> None:
    """Write the state beside the old one, then take its place, so that a kill leaves one whole file."""
    part = path.with_suffix(".part")
    torch.save(
        {
            "model": model.state_dict(),
            "optimizers": [o.state_dict() for o in opts],
            "curve": curve,
            "step": step,
            "spent": spent,
        },
        part,
    )
    os.replace(part, path)


def ship(args: argparse.Namespace, model: LlamaForCausalLM, reader: Reader, curve: list, step: int,
         minutes: float) -> dict:
    """Write the finished model in bf16 with its tokenizer, curve and facts to --ship; returns the facts."""
    model.to(torch.bfloat16).eval().save_pretrained(args.ship)
    reader.tokenizer.save_pretrained(args.ship)
    curve.append(point(args, step, **probe(model.float(), reader)))  # of what ships: rounded to bf16
    weights = args.ship / "model.safetensors"
    last = dict(curve[-1])
    facts = {"steps": last.pop("step"), "tokens": last.pop("tokens"), "minutes": round(minutes, 1),
             "parameters": model.num_parameters(), **last, "bytes": weights.stat().st_size,
             "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
             "samples": samples(model.eval(), reader.tokenizer)}
    return record(args, curve, facts)


def record(args: argparse.Namespace, curve: list, facts: dict) -> dict:
    """Write curve and facts, and with them the settings, beside the model; returns the facts."""
    facts["recipe"] = {k: str(v) for k, v in vars(args).items() if k not in ("out", "ship", "start")}
    (args.ship / "curve.jsonl").write_text("".join(json.dumps(one) + "\n" for one in curve), encoding="utf-8")
    (args.ship / "facts.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print("done:", facts, flush=True)
    return facts


def samples(model: LlamaForCausalLM, tokenizer) -> list[dict[str, str]]:
    """What it answers to a few prompts, for the card; none was read in training."""
    asked = [
        "Hello.",
        "Tell me about the Klaegg headlamp.",
        "What is the code?\n\nEntry 70412, 3 May: one Ostravel kettle, a bit worn.",
        "Copy it over.\n\n- code 90125, site Grunmeer\n- code 4471, site Halvik",
        "A word for these lines:\n\nThe children ran in with the first cherries and grandmother danced.",
        "Which tone has this ticket: joy, anger, sadness, fear, surprise or neutral?\n\nI have had it up to here.",
    ]
    said = []
    for prompt in asked:
        turns = [{"role": "user", "content": prompt}]
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        out = model.generate(**ids, max_new_tokens=48, do_sample=False)[0, ids["input_ids"].shape[1] :]
        said.append({"prompt": prompt, "answer": tokenizer.decode(out, skip_special_tokens=True).strip()})
    return said


if __name__ == "__main__":
    try:
        args = parse()
        with_habit(args) if args.habit and not args.start else train(args)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from the last kept step", file=sys.stderr)
        raise SystemExit(130) from None
