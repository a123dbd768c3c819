"""`tokenizer.json` as a GGUF's vocabulary: byte-pair vocabularies of both kinds.

::

    ByteLevel      words are cut by a pattern, bytes are letters   ─→ "gpt2", with merges and the cut's name
    byte_fallback  SentencePiece's: "▁" is a space                 ─→ "llama", with scores for merges

llama.cpp joins SentencePiece's pieces by their scores, and `tokenizer.json` by a list of pairs. The list
was made of scores, in their order, so each piece's score is the rank of its first pair. A list that scores
can't say is refused.

Source: llama.cpp's `conversion/base.py`, for kinds of tokens. gguf's `SpecialVocab` reads special ids and
templates.
Deviation: it takes the cut from the file's own pattern, where that one compares the ids of a text.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import gguf

from edgereason.config import load_json, read_bounded
from edgereason.errors import ModelFileError
from edgereason.quant.pretokenizers import CUTS, cut_named

FILE: Final = "tokenizer.json"
FILES: Final = (
    FILE,
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
)
"""What is read of a checkpoint's tokenizer, as far as it is there."""
_TEMPLATE: Final = "chat_template.jinja"
logging.getLogger("gguf.vocab").setLevel(logging.ERROR)  # it warns of ids that the vocabulary has not
_SPACE: Final = "▁"
_ADDED_SCORE: Final = -1000.0
_BYTE: Final = re.compile(r"<0x[0-9A-F]{2}>")
_LOOKS_SPECIAL: Final = re.compile(r"<\|.*\|>|<｜.*｜>|<pad>|<mask>|<unused.*>", re.DOTALL)
"""Tokens that makers mark as ordinary and that control: as llama.cpp's converter has them."""
_PHI3: Final = ("</s>", "<unk>", "<s>", "<|endoftext|>")
"""llama.cpp strips white space behind Phi-3's special tokens, by the model's name, if these are there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """A vocabulary as a GGUF has it.

    Attributes:
        model: "gpt2" or "llama".
        pre: how words are cut.
        tokens, types: by id.
        scores: by id; None for a byte-pair vocabulary.
        merges: None for SentencePiece's.
        adds_space: whether a space is put in front; None where the kind has none.
        special: ids of special tokens, and the chat template.
        model_name: that llama.cpp knows peculiarities of the vocabulary by; None if it has none.
    """

    model: str
    pre: str
    tokens: Sequence[str]
    types: Sequence[int]
    scores: Sequence[float] | None
    merges: Sequence[str] | None
    adds_space: bool | None
    special: gguf.SpecialVocab
    model_name: str | None = None

    def write(self, writer: gguf.GGUFWriter) -> None:
        """Adds it to a file's metadata."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(list(self.tokens))
        writer.add_token_types(list(self.types))
        if self.scores is not None:
            writer.add_token_scores(list(self.scores))
        if self.adds_space is not None:
            writer.add_add_space_prefix(self.adds_space)
        self.special.add_to_gguf(writer, quiet=True)


def read_vocabulary(folder: Path, num_rows: int) -> Vocabulary:
    """Reads a checkpoint's tokenizer.

    Args:
        folder: of the checkpoint.
        num_rows: of the embedding; ids above the last token are filled up.

    Raises:
        ModelFileError: it is missing, can't be read, or is of a kind that llama.cpp does not compute alike.
    """
    path = folder / FILE
    if not path.is_file():
        others = [
            name for name in ("tokenizer.model", "vocab.json", "tekken.json") if (folder / name).is_file()
        ]
        have = f" (it has {others[0]})" if others else ""
        raise ModelFileError(
            f"{folder} lacks {FILE}{have}: save it by transformers' AutoTokenizer.from_pretrained(…)"
            ".save_pretrained(…)"
        )
    try:
        return _Reader(load_json(read_bounded(path)), f"{folder.name}/{FILE}").vocabulary(folder, num_rows)
    except OSError as error:
        raise ModelFileError(f"{error.filename or path} can't be read: {error.strerror}") from error
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise ModelFileError(f"{path} can't be right ({error}): get it again") from error


class _Reader:
    """`tokenizer.json`, parsed; `where` begins every message."""

    def __init__(self, file: dict[str, Any], where: str) -> None:
        self.file, self.model, self.where = file, file["model"], where
        self.added: dict[int, Mapping[str, Any]] = {
            int(one["id"]): one for one in file.get("added_tokens") or ()
        }

    def vocabulary(self, folder: Path, num_rows: int) -> Vocabulary:
        if (kind := self.model.get("type") or "BPE") != "BPE":
            raise ModelFileError(f"{self.where} is of the kind {kind}; expected BPE")
        is_pieces = bool(self.model.get("byte_fallback"))
        tokens, types = self._tokens(num_rows, is_pieces=is_pieces)
        special = gguf.SpecialVocab(folder, load_merges=not is_pieces, n_vocab=num_rows)
        special.add_special_token.setdefault("bos", False)  # llama.cpp would add it to some vocabularies
        template = folder / _TEMPLATE
        if template.is_file():  # transformers prefers it, too
            special.chat_template = template.read_text("utf-8")
        if is_pieces:
            self._require_spaces()
            names_phi3 = any(one.get("rstrip") for one in self.added.values()) and {*_PHI3} <= {*tokens}
            return Vocabulary(
                model="llama",
                pre="default",
                tokens=tokens,
                types=types,
                scores=self._scores(tokens, types),
                merges=None,
                adds_space=self._adds_space(),
                special=special,
                model_name="Phi-3" if names_phi3 else None,
            )
        return Vocabulary(
            model="gpt2",
            pre=self._cut(),
            tokens=tokens,
            types=types,
            scores=None,
            merges=special.merges,
            adds_space=None,
            special=special,
        )

    def _tokens(self, num_rows: int, *, is_pieces: bool) -> tuple[list[str], list[int]]:
        by_id = {int(number): str(text) for text, number in self.model["vocab"].items()}
        beyond = [number for number in by_id if not 0 <= number < num_rows and number not in self.added]
        if beyond:
            raise ModelFileError(
                f"{self.where} has the token {beyond[0]}, and the embedding has {num_rows} rows: they are "
                "of two models"
            )
        unknown = self.model.get("unk_token")
        tokens, types = [], []
        for number in range(num_rows):
            text, added = by_id.get(number), self.added.get(number)
            kind = gguf.TokenType.NORMAL
            if added is not None:
                text = str(added["content"])
                is_control = added.get("special") or _LOOKS_SPECIAL.fullmatch(text)
                kind = gguf.TokenType.CONTROL if is_control else gguf.TokenType.USER_DEFINED
                if kind == gguf.TokenType.USER_DEFINED:
                    text = text.replace(_SPACE, " ")  # llama.cpp looks for it in the text as it is
            if text is None:
                text, kind = f"[PAD{number}]", gguf.TokenType.UNUSED
            elif is_pieces and text == unknown:
                kind = gguf.TokenType.UNKNOWN
            elif is_pieces and _BYTE.fullmatch(text):
                kind = gguf.TokenType.BYTE
            tokens.append(text)
            types.append(kind)
        return tokens, types

    # ── byte-pair vocabularies ───────────────────────────────────────────────────────────────────────

    def _cut(self) -> str:
        """llama.cpp's name of how this file cuts words."""
        normalizer = (self.file.get("normalizer") or {}).get("type")
        before = self.file.get("pre_tokenizer") or {}
        steps = list(before.get("pretokenizers") or [before])
        letters = [one for one in steps if one.get("type") == "ByteLevel"]
        others = tuple(one for one in steps if one.get("type") != "ByteLevel")
        is_plain = len(letters) == 1 and not letters[0].get("add_prefix_space")
        is_normalised = normalizer not in (None, "NFC")  # Qwen's NFC: llama.cpp takes texts as they are
        cut = None
        if is_plain and not is_normalised:
            cut = cut_named(
                others,
                uses_gpt2_words=bool(letters[0].get("use_regex", True)),
                ignores_merges=bool(self.model.get("ignore_merges")),
            )
        if cut is None:
            said = next(
                (str(one["pattern"]) for one in others if "pattern" in one),
                [one.get("type") for one in steps],
            )
            raise ModelFileError(
                f"{self.where} cuts words in a way that is not known here ({said}, normalizer "
                f"{normalizer}); known are "
                f"those of {', '.join(CUTS)}: convert the checkpoint by llama.cpp's convert_hf_to_gguf.py"
            )
        return cut

    # ── SentencePiece's ──────────────────────────────────────────────────────────────────────────────

    def _require_spaces(self) -> None:
        """Refuses a normalizer that does more than to write "▁" for a space."""
        for step in _steps(self.file.get("normalizer"), "normalizers"):
            is_space = step.get("type") == "Replace" and step.get("content") == _SPACE
            if not is_space and not (step.get("type") == "Prepend" and step.get("prepend") == _SPACE):
                raise ModelFileError(f"{self.where} normalises by {step.get('type')}, which is not supported")
        for step in _steps(self.file.get("pre_tokenizer"), "pretokenizers"):
            is_whole = step.get("type") == "Metaspace" and not step.get("split", True)
            if not is_whole and not (step.get("type") == "Split" and step.get("pattern") == {"String": " "}):
                raise ModelFileError(f"{self.where} cuts by {step.get('type')}, which is not supported")

    def _adds_space(self) -> bool:
        prepends = any(
            step.get("type") == "Prepend" for step in _steps(self.file.get("normalizer"), "normalizers")
        )
        schemes = [
            step.get("prepend_scheme", "always")
            for step in _steps(self.file.get("pre_tokenizer"), "pretokenizers")
            if step.get("type") == "Metaspace"
        ]
        return prepends or any(scheme != "never" for scheme in schemes)

    def _scores(self, tokens: Sequence[str], types: Sequence[int]) -> list[float]:
        """Of each token: how early it is made of two others.

        Raises:
            ModelFileError: bytes are missing, or pairs are not in an order that scores can say.
        """
        if sum(kind == gguf.TokenType.BYTE for kind in types) != 256:
            raise ModelFileError(f"{self.where} has byte_fallback, and not a token for each of the 256 bytes")
        added = {str(one["content"]) for one in self.added.values()}
        listed = self.model.get("merges") or ()
        merges = [tuple(one.split(" ") if isinstance(one, str) else one) for one in listed]
        # Added tokens are found in the text before pieces are joined.
        pairs = [(left, right) for left, right in merges if left + right not in added]
        ranks = self._ranks(pairs)
        there = {*pairs}
        known = {*tokens}
        for piece, kind in zip(tokens, types, strict=True):
            for n in range(1, len(piece) if kind == gguf.TokenType.NORMAL else 0):
                left, right = piece[:n], piece[n:]
                if (
                    left in known
                    and right in known
                    and (left, right) not in there
                    and not {left, right} & added
                ):
                    raise self._unsaid(left, right, "never, and is a token")
        return [
            _ADDED_SCORE
            if kind in (gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED)
            else -float(ranks.get(token, 0))
            for token, kind in zip(tokens, types, strict=True)
        ]

    def _ranks(self, pairs: Sequence[tuple[str, str]]) -> dict[str, int]:
        """The place of each piece in the order of scores; pieces whose pairs alternate had one score.

        transformers sorts pairs by the score of what they make, then by the lengths of left and right,
        downwards.
        """
        lasts = {left + right: n for n, (left, right) in enumerate(pairs)}
        ranks: dict[str, int] = {}
        rank = end = -1
        before = ("", "")
        for n, (left, right) in enumerate(pairs):
            is_other = left + right != before[0] + before[1]
            if n > end:
                rank += 1
            elif is_other and (len(left), len(right)) > (len(before[0]), len(before[1])):
                raise self._unsaid(left, right, "in an order of their own")
            end, before = max(end, lasts[left + right]), (left, right)
            ranks.setdefault(left + right, rank)
        return ranks

    def _unsaid(self, left: str, right: str, when: str) -> ModelFileError:
        return ModelFileError(
            f"{self.where} joins {left!r} and {right!r} {when}, which scores of pieces can't say: it is not "
            "SentencePiece's vocabulary, and llama.cpp would cut texts otherwise"
        )


def _steps(part: Mapping[str, Any] | None, name: str) -> Sequence[Mapping[str, Any]]:
    """The steps of a part of the file, which may be one or a sequence."""
    if not part:
        return ()
    return part[name] if part.get("type") == "Sequence" else (part,)
