"""Trains small byte-level BPE tokenizers and records what the `tokenizers` package makes of many strings.

    python tests/golden/make_tokenizer.py        (needs: pip install tokenizers)

Writes tests/golden/fixtures/tokenizer/<name>.tokenizer.json and <name>.cases.json.
"""
import json
import pathlib

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

OUT = pathlib.Path(__file__).parent / "fixtures" / "tokenizer"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
CORPUS = [
    "the quick brown fox jumps over the lazy dog and then the other dog jumps over the fox",
    "a kernel reads rows of a matrix, and the other kernel writes the rows of the other matrix",
    "It's what they're saying: we'll see if you've got 12345 numbers, or 678 and 90.",
    "naïve café über straße, 東京 東京 東京, Привет мир, привет, שלום עולם, 🙂🙂🙂 👩‍👩‍👧",
    "int main(void) {\n    return 0;\n}\n\n\tfor (int i = 0; i < n; i++) sum += x[i];\n",
] * 4
TEXTS = [
    "", " ", "  ", "   ", "\n", "\n\n\n", "\t", " \t \n ", "a", " a", "a ", " a ", "the", " the", "The the THE",
    "the quick brown fox", "the  quick   brown    fox", "jumps over the lazy dog.", "hello, world!",
    "It's we'll they've I'm you'd don't she's 're", "IT'S WE'LL THEY'VE I'M", "\u2019s it\u2019s", "'\u017f '\u017fx",
    "0", "1 12 123 1234 12345 123456", "3.14159e-10", "1,234,567.89", "x=1;y=2", "\u0661\u0662\u0663", "\u00bd \u2167",
    "caf\u00e9 na\u00efve \u00fcber", "cafe\u0301", "\u6771\u4eac", "\u6771\u4eac\u90fd \u3068\u5927\u962a",
    "\u041f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440", "\u05e9\u05dc\u05d5\u05dd", "\U0001f642",
    "\U0001f642\U0001f642 \U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "a\u00a0b\u3000c\u2003d",
    "a\u0085b\u2028c\u180ed\u200be", "   leading", "trailing   ", "tabs\t\tand\tmore", "line\r\nline\r\n\r\n  end",
    "    indented code:\n        return 0;\n", "for (int i = 0; i < n; i++) sum += x[i];", "{}[]()<>!?#$%&*+-/=@^_`|~\\\"",
    "...!!!???", " ... !!! ???", "<|end|>", "<|end|><|end|>", "a<|end|>b", " <|end|> ", "<|end", "<|end|>|>", "<tool>",
    "x <tool> y", "<tool><tool_call>z", "<tool_call", "<|\uff5cu|>", "e\u0120f\u0120g", "\u0120the", "\x01\x7f",
    "\u00ff\u00fe", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "the" * 40, "\U0010ffff\ufffd\ue000",
    "_snake_case_name camelCaseName", "mixed123abc456", "\u0300\u0301 combining", "a'b'c ''s ' s",
]


def build(name, pre, corpus, size=500, ignore_merges=False, old_merges=False):
    tok = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tok.pre_tokenizer = pre
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=size, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    if ignore_merges:  # a token that no merge makes: only the whole word gives it
        data = json.loads(tok.to_str())
        data["model"]["vocab"]["\u0120zq"] = len(data["model"]["vocab"])
        tok = Tokenizer.from_str(json.dumps(data))
    tok.add_special_tokens([AddedToken("<|end|>"), AddedToken("<|\uff5cu|>")])
    tok.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("<tool_call>", normalized=True)])
    data = json.loads(tok.to_str())
    if old_merges:
        data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    text = json.dumps(data, ensure_ascii=False, indent=1) + "\n"
    tok = Tokenizer.from_str(text)
    cases = []
    for s in TEXTS + ([" zq", "a zq", "zq", " zqz"] if ignore_merges else []):
        ids = tok.encode(s, add_special_tokens=False).ids
        cases.append({"text": s, "ids": ids, "decoded": tok.decode(ids, skip_special_tokens=False),
                      "decoded_plain": tok.decode(ids, skip_special_tokens=True)})
    (OUT / f"{name}.tokenizer.json").write_text(text)
    (OUT / f"{name}.cases.json").write_text(json.dumps(cases, ensure_ascii=True, indent=0) + "\n")


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated")


OUT.mkdir(parents=True, exist_ok=True)
plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
build("gpt2", pre_tokenizers.ByteLevel(add_prefix_space=False), CORPUS, old_merges=True)
build("prefix", pre_tokenizers.ByteLevel(add_prefix_space=True), CORPUS)
build("llama3", pre_tokenizers.Sequence([split(LLAMA3), plain]), CORPUS, ignore_merges=True)
build("splits", pre_tokenizers.Sequence([split(r"\p{N}{1,3}"), split("[\u4e00-\u9fa5]+"),
                                         split(r"\s?\p{L}+|\s+"), plain]), CORPUS)
