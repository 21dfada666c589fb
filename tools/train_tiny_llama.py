#!/usr/bin/env python3
"""Train examples/tiny-llama: a Llama checkpoint of under two million parameters on the King James Bible.

The checkpoint is what examples and end-to-end tests of text generation run on: small enough to live in the
repository, trained enough that a wrong kernel shows as unreadable text. This script makes the whole folder
(weights, tokenizer, configuration, model card, prompts.json) and is not needed at run time.

Text: Debian's packages bible-kjv and bible-kjv-text (`apt install bible-kjv` brings both); the program `bible`
prints the verses, this script strips the references. One verse a line; chapters are parted by an empty line and
are the documents of the training set. Every 50th chapter is held out for validation.

    train_tiny_llama.py --write-text kjv.txt              # only extract the text
    train_tiny_llama.py --output examples/tiny-llama      # extract, train, evaluate, write the folder
    train_tiny_llama.py --text kjv.txt --steps 20 --output /tmp/try    # a quick check without a GPU
"""
import argparse
import hashlib
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT = "<|endoftext|>"  # id 0; parts the chapters
KJV_SHA256 = "6b40e3f13a6cf83937165995b4868d7eb1f429d0c96ddb8574bea5544101a914"  # of the text that bible-kjv-text 4.38 gives
KJV_SOURCE = "King James Version of the Bible, as Debian 12's package bible-kjv-text 4.38 ships it"
PARAMETER_LIMIT = 2_000_000
HOLD_OUT_EVERY = 50  # chapters
SAMPLE_PROMPTS = ("And David said unto", "And it came to pass in those days,", "The wise man", "Then Jesus said unto them,")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    text = parser.add_argument_group("text")
    text.add_argument("--text", type=Path, help="plain text, documents parted by empty lines, instead of `bible`")
    text.add_argument("--bible-program", default="bible", help="the program of Debian's package bible-kjv")
    text.add_argument("--bible-data", help="folder of bible.data, where it is not in /usr/lib")
    text.add_argument("--write-text", type=Path, metavar="FILE", help="write the extracted text to FILE and stop")
    shape = parser.add_argument_group("model")
    shape.add_argument("--vocab-size", type=int, default=1536)
    shape.add_argument("--hidden-size", type=int, default=192)
    shape.add_argument("--intermediate-size", type=int, default=384)
    shape.add_argument("--layers", type=int, default=5)
    shape.add_argument("--heads", type=int, default=6)
    shape.add_argument("--kv-heads", type=int, default=2)
    shape.add_argument("--context", type=int, default=1024)
    recipe = parser.add_argument_group("recipe")
    recipe.add_argument("--steps", type=int, default=6000, help="stop after so many steps")
    recipe.add_argument("--minutes", type=float, help="stop after so many minutes, if --steps has not come first")
    recipe.add_argument("--batch-size", type=int, default=24, help="windows of --context tokens in a step")
    recipe.add_argument("--learning-rate", type=float, default=3e-3)
    recipe.add_argument("--warm-up", type=int, default=200, help="steps of linear warm-up")
    recipe.add_argument("--weight-decay", type=float, default=0.1)
    recipe.add_argument("--dropout", type=float, default=0.2)
    recipe.add_argument("--evaluate-every", type=int, default=100)
    recipe.add_argument("--seed", type=int, default=20)
    parser.add_argument("--note", default="", help="a sentence for the card: how this recipe was chosen")
    parser.add_argument("--output", type=Path, help="folder to write; needed unless --write-text is given")
    arguments = parser.parse_args()
    if not arguments.output and not arguments.write_text:
        parser.error("give --output FOLDER (or --write-text FILE)")
    if arguments.steps < 1:
        parser.error("--steps: expected at least 1")
    return arguments


# ---- text and tokens ----

def extract_bible(program, data_folder):
    """The verses, one a line, an empty line between chapters, references ("Ge1:1 ") removed."""
    command = [program] + (["-p", data_folder] if data_folder else []) + ["-f", "Gen1:1-Rev22:21"]
    try:
        printed = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"cannot run {program!r} ({error}); install Debian's bible-kjv or pass --text FILE")
    lines, chapter = [], None
    for line in printed.splitlines():
        reference, verse = line.split(" ", 1)
        if chapter and reference.split(":")[0] != chapter:
            lines.append("")
        chapter = reference.split(":")[0]
        lines.append(verse.strip())
    return "\n".join(lines) + "\n"


def split_documents(text):
    documents = [part.strip("\n") + "\n" for part in text.split("\n\n") if part.strip()]
    held_out = documents[HOLD_OUT_EVERY // 2::HOLD_OUT_EVERY]
    kept = [d for i, d in enumerate(documents) if i % HOLD_OUT_EVERY != HOLD_OUT_EVERY // 2]
    if not held_out:
        sys.exit(f"expected at least {HOLD_OUT_EVERY} documents parted by empty lines, found {len(documents)}")
    return kept, held_out


def train_tokenizer(documents, vocab_size):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(documents, trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END_OF_TEXT], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    return tokenizer


def to_stream(tokenizer, documents):
    """One run of ids: an end-of-text token before, between and after the documents."""
    stream = [0]
    for encoding in tokenizer.encode_batch(documents):
        stream += encoding.ids + [0]
    return torch.tensor(stream)


# ---- training ----

def configuration(arguments, vocab_size):
    """config.json: `rope_theta` is where transformers 4 looks, `rope_parameters` where transformers 5 does."""
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocab_size,
        "hidden_size": arguments.hidden_size, "intermediate_size": arguments.intermediate_size,
        "num_hidden_layers": arguments.layers, "num_attention_heads": arguments.heads,
        "num_key_value_heads": arguments.kv_heads, "head_dim": arguments.hidden_size // arguments.heads,
        "hidden_act": "silu", "max_position_embeddings": arguments.context, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "rope_scaling": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0, "initializer_range": 0.02,
        "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None,
        "use_cache": True, "torch_dtype": "bfloat16",
    }


def build_model(config, dropout):
    fields = {k: v for k, v in config.items() if k not in ("torch_dtype", "attention_dropout", "rope_scaling")}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(attention_dropout=dropout, **fields))

    def drop(module, _, output):
        if isinstance(output, tuple):
            return (F.dropout(output[0], dropout, module.training), *output[1:])
        return F.dropout(output, dropout, module.training)

    # Llama has no dropout on the residual stream, which a text this small needs: add it for the training only.
    model.model.embed_tokens.register_forward_hook(drop)
    for layer in model.model.layers:
        layer.self_attn.register_forward_hook(drop)
        layer.mlp.register_forward_hook(drop)
        for last in (layer.self_attn.o_proj, layer.mlp.down_proj):  # keep the stream's variance at 1 at the start
            with torch.no_grad():
                last.weight.mul_((2 * config["num_hidden_layers"]) ** -0.5)
    return model


@torch.no_grad()
def evaluate(model, stream, context, device):
    """Mean nats a token over the stream; each token but the first is predicted once, in float32."""
    model.eval()
    total = 0.0
    for start in range(0, len(stream) - 1, context):
        window = stream[start:start + context + 1].to(device)
        logits = model(input_ids=window[None, :-1], use_cache=False).logits[0]
        total += F.cross_entropy(logits.float(), window[1:], reduction="sum").item()
    return total / (len(stream) - 1)


def train(model, stream, validation, arguments, device):
    """AdamW with linear warm-up and cosine decay to zero; leaves the best weights seen in `model`."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": arguments.weight_decay},
                                   {"params": vectors, "weight_decay": 0.0}],
                                  lr=arguments.learning_rate, betas=(0.9, 0.95), fused=device.type == "cuda")
    stream, started = stream.to(device), time.monotonic()
    generator = torch.Generator().manual_seed(arguments.seed)
    offsets = torch.arange(arguments.context + 1, device=device)
    best, best_loss, best_step, step, progress = None, math.inf, 0, 0, 0.0
    while progress < 1.0:
        learning_rate = arguments.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / arguments.warm_up)
        starts = torch.randint(len(stream) - arguments.context, (arguments.batch_size, 1), generator=generator)
        windows = stream[starts.to(device, non_blocking=True) + offsets]
        model.train()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(input_ids=windows[:, :-1], use_cache=False).logits
        loss = F.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        progress = step / arguments.steps
        if arguments.minutes:
            progress = max(progress, (time.monotonic() - started) / 60 / arguments.minutes)
        if step % arguments.evaluate_every == 0 or progress >= 1.0:
            held_out = evaluate(model, validation, arguments.context, device)
            print(f"step {step} {time.monotonic() - started:.0f} s lr {learning_rate:.2e} "
                  f"batch {loss.item():.4f} validation {held_out:.4f}", flush=True)
            if held_out < best_loss:
                best = {k: v.detach().clone() for k, v in model.state_dict().items()}
                best_loss, best_step = held_out, step
    model.load_state_dict(best)
    return {"steps": step, "best_step": best_step, "seconds": time.monotonic() - started}


# ---- the folder ----

def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def save_checkpoint(folder, model, tokenizer, config):
    weights = {k: v.to("cpu", torch.bfloat16).contiguous() for k, v in model.state_dict().items()
               if k != "lm_head.weight"}  # tied to model.embed_tokens.weight
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # safetensors makes it readable to its owner only
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json",
               {"do_sample": False, "bos_token_id": 0, "eos_token_id": 0})
    write_json(folder / "tokenizer_config.json",
               {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT,
                "model_max_length": config["max_position_embeddings"], "clean_up_tokenization_spaces": False})
    return sum(w.numel() for w in weights.values())


def write_prompts(path, tokenizer, held_out, source):
    """Sixteen passages of held-out text, each from a verse's first word up to a whole word."""
    lengths = (8, 12, 16, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 224, 256, 300)
    outputs = (16, 24, 32, 48, 64)
    requests = []
    for i, length in enumerate(lengths):
        words = held_out[i % len(held_out)].split(" ")
        count = len(words)
        while count > 1 and len(tokenizer.encode(" ".join(words[:count]).rstrip("\n")).ids) > length:
            count -= 1
        text = " ".join(words[:count]).rstrip("\n")
        requests.append({"text": text, "input_ids": tokenizer.encode(text).ids,
                         "max_new_tokens": outputs[i % len(outputs)]})
    write_json(path, {"name": "tiny-llama-text", "source": f"held-out chapters of: {source}", "requests": requests})


@torch.no_grad()
def greedy(model, tokenizer, prompt, count, device):
    ids = torch.tensor([tokenizer.encode(prompt).ids], device=device)
    out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=count,
                         pad_token_id=0)
    return tokenizer.decode(out[0].tolist(), skip_special_tokens=True)


def card(facts, arguments, config, samples):
    """README.md: the model card, every figure from this run."""
    clock = f" over {arguments.minutes} minutes by the clock" if arguments.minutes else ""
    quoted = "\n\n".join(f"Prompt `{prompt}`\n\n```text\n{text}\n```" for prompt, text in samples)
    return f"""# tiny-llama

A Llama-architecture language model of {facts['parameters']:,} parameters, trained from random weights by
`tools/train_tiny_llama.py`. It exists so that generation can be run and tested on text, end to end, with a checkpoint
that fits in this repository. Its greedy output is readable Bible English; it knows nothing else.
The weights come under this repository's licence.

## Text
- Source: {facts['source']}.
- Licence: {facts['licence']}
- Size: {facts['bytes']:,} bytes in {facts['documents']:,} chapters, {facts['train_tokens'] + facts['validation_tokens']:,} tokens; sha256 `{facts['sha256']}`.
- Preparation: references and verse numbers stripped, one verse a line, an end-of-text token between chapters.
- Validation: every {HOLD_OUT_EVERY}th chapter ({facts['held_out']} chapters, {facts['validation_bytes']:,} bytes, {facts['validation_tokens']:,} tokens), never trained on. The tokenizer
  was trained without it as well.

## Tokenizer
Byte-level BPE of {config['vocab_size']:,} tokens: ByteLevel pre-tokenizer (GPT-2's pattern, no prefix space), ByteLevel decoder, no
normalizer, no post-processor. `{END_OF_TEXT}` (id 0) begins and ends text; prompts need not start with it.
{facts['bytes_per_token']:.2f} bytes a token on the validation text.

## Architecture
`LlamaForCausalLM`: hidden {config['hidden_size']}, intermediate {config['intermediate_size']}, {config['num_hidden_layers']} layers, {config['num_attention_heads']} query heads and {config['num_key_value_heads']} key-value heads of {config['head_dim']},
SiLU, RMSNorm 1e-5, rotary base 10000, {config['max_position_embeddings']:,} positions, embedding and output tied. Weights are stored as
bfloat16 ({facts['weight_bytes']:,} bytes). `config.json` gives the rotary base both at the top level and in `rope_parameters`.

## Training
- AdamW (0.9, 0.95), weight decay {arguments.weight_decay} on matrices, gradients clipped at 1; linear warm-up of {arguments.warm_up} steps to {arguments.learning_rate}, then cosine to 0{clock}.
- {facts['steps']:,} steps of {arguments.batch_size} random windows of {config['max_position_embeddings']:,} tokens ({facts['epochs']:.0f} passes over the text); dropout {arguments.dropout} on embeddings, attention and
  both branches of every layer, in training only. Weights of the step with the lowest validation loss: {facts['best_step']:,}.
- {facts['precision']}; seed {arguments.seed}; {facts['seconds']:.0f} s on {facts['device']}; torch {torch.__version__}, transformers {transformers.__version__}.

To train it again (another device or library version gives other weights of about the same loss):

```sh
tools/train_tiny_llama.py --output DIR \\
    {facts['command']}
```

## Loss of the stored checkpoint
The saved bfloat16 weights, loaded and run in float32; windows of {config['max_position_embeddings']:,} tokens without overlap, each token predicted once.

| text | nats per token | bits per byte | perplexity per token |
| --- | --- | --- | --- |
| training | {facts['train_loss']:.4f} | {facts['train_bpb']:.4f} | {math.exp(facts['train_loss']):.2f} |
| validation | {facts['validation_loss']:.4f} | {facts['validation_bpb']:.4f} | {math.exp(facts['validation_loss']):.2f} |

The validation text chose the step, so its figure is slightly optimistic. {arguments.note}
The Bible also repeats itself (parallel books, set phrases), which helps on any held-out chapter.

## Greedy output
From the stored checkpoint in float32, 80 new tokens, prompt included:

{quoted}

## Other files
`prompts.json`: a workload of 16 passages of held-out text, with token ids and output lengths.

## Limits
One book in the English of 1611 and the views of its time; no facts, no instructions, no conversation, no other language.
Greedy text soon repeats itself and drifts; in a repetition the two best tokens are often so close that float32 and
bfloat16 part ways. Beyond {config['max_position_embeddings']:,} tokens it is untrained. Use it to test software, for nothing else.
"""


def gather_facts(stored, run, text, training, validating, arguments, device):
    """What the card says of this run: `stored` is the saved checkpoint, the pairs are (documents, stream)."""
    (documents, stream), (held_out, validation) = training, validating
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    is_kjv = sha256 == KJV_SHA256
    source = KJV_SOURCE if is_kjv else f"a text of the user's ({arguments.text or arguments.bible_program})"
    train_bytes, validation_bytes = (sum(len(d.encode()) for d in part) for part in (documents, held_out))
    losses = {name: evaluate(stored, s, arguments.context, device)
              for name, s in (("train", stream), ("validation", validation))}
    return {
        **run, "parameters": sum(p.numel() for p in stored.parameters()),
        "source": source, "sha256": sha256, "bytes": len(text.encode()),
        "licence": "public domain: the package's copyright file says that the copyright of this translation of 1611 "
                   "is expired\n  (in the United Kingdom printing it is under letters patent)." if is_kjv
                   else "that of the text.",
        "documents": len(documents) + len(held_out), "held_out": len(held_out),
        "train_tokens": len(stream) - 1, "validation_tokens": len(validation) - 1,
        "validation_bytes": validation_bytes, "bytes_per_token": validation_bytes / (len(validation) - 1),
        "epochs": run["steps"] * arguments.batch_size * arguments.context / len(stream),
        "precision": "bfloat16 autocast over float32 weights" if device.type == "cuda" else "float32",
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "weight_bytes": (arguments.output / "model.safetensors").stat().st_size,
        "command": " ".join(f"--{k} {v}" for k, v in (
            ("steps", run["steps"]), ("dropout", arguments.dropout), ("weight-decay", arguments.weight_decay),
            ("learning-rate", arguments.learning_rate), ("batch-size", arguments.batch_size),
            ("seed", arguments.seed))),
        "train_loss": losses["train"], "validation_loss": losses["validation"],
        "train_bpb": losses["train"] * (len(stream) - 1) / train_bytes / math.log(2),
        "validation_bpb": losses["validation"] * (len(validation) - 1) / validation_bytes / math.log(2),
    }


def main():
    arguments = parse_arguments()
    if arguments.text:
        text = arguments.text.read_text(encoding="utf-8")
    else:
        text = extract_bible(arguments.bible_program, arguments.bible_data)
    if arguments.write_text:
        arguments.write_text.write_text(text, encoding="utf-8")
        return
    torch.manual_seed(arguments.seed)
    torch.backends.cuda.matmul.allow_tf32 = False
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    documents, held_out = split_documents(text)
    tokenizer = train_tokenizer(documents, arguments.vocab_size)
    stream, validation = to_stream(tokenizer, documents), to_stream(tokenizer, held_out)
    if len(stream) <= arguments.context:
        sys.exit(f"the text gives {len(stream)} tokens; expected more than --context {arguments.context}")
    config = configuration(arguments, tokenizer.get_vocab_size())
    model = build_model(config, arguments.dropout).to(device)
    parameters = sum(p.numel() for p in model.parameters())
    if parameters > PARAMETER_LIMIT:
        sys.exit(f"{parameters:,} parameters; expected at most {PARAMETER_LIMIT:,}")
    print(f"{parameters:,} parameters, {len(stream):,} training and {len(validation):,} validation tokens", flush=True)
    run = train(model, stream, validation, arguments, device)

    folder = arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    save_checkpoint(folder, model, tokenizer, config)
    stored = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device)
    facts = gather_facts(stored, run, text, (documents, stream), (held_out, validation), arguments, device)
    write_prompts(folder / "prompts.json", tokenizer, held_out, facts["source"])
    samples = [(prompt, greedy(stored, tokenizer, prompt, 80, device)) for prompt in SAMPLE_PROMPTS]
    (folder / "README.md").write_text(card(facts, arguments, config, samples), encoding="utf-8")
    for _, sample in samples:
        print(sample, end="\n\n")
    print(f"train {facts['train_loss']:.4f} validation {facts['validation_loss']:.4f} nats per token, best step "
          f"{run['best_step']} of {run['steps']}")


if __name__ == "__main__":
    main()
