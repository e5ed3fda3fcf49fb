"""An LSTM and a small transformer of the same size, in plain torch."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...checks import check_choice, check_whole


class LanguageModel(nn.Module):
    """What both models share: tokens to vectors and vectors to logits, by one matrix (vocabulary, width).

    The matrix starts with entries of variance 1/width and the embedding is multiplied by sqrt(width): vectors with
    entries of about 1, so that noise of different q is of comparable strength at the start.
    """

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        nn.init.normal_(self.embedding.weight, std=width**-0.5)

    def embed(self, tokens: Tensor) -> Tensor:
        """Tokens (time, batch) to vectors (time, batch, width)."""
        vectors: Tensor = self.embedding(tokens) * math.sqrt(self.embedding.embedding_dim)
        return vectors

    def logits(self, hidden: Tensor) -> Tensor:
        """Vectors (time, batch, width) to logits (time, batch, vocabulary)."""
        return F.linear(hidden, self.embedding.weight, self.bias)


class LSTMLanguageModel(LanguageModel):
    """Embedding, LSTM layers of one width, logits. The state is a tensor (layers, 2, batch, width) of h and c; None
    stands for zeros. A layer has 8 width (width + 1) parameters."""

    def __init__(self, vocabulary: int, width: int = 128, layers: int = 2) -> None:
        super().__init__(vocabulary, width)
        self.embedded = nn.Identity()
        self.lstm = nn.ModuleList(nn.LSTM(width, width) for _ in range(layers))
        self.hidden = nn.ModuleList(nn.Identity() for _ in range(layers))

    def forward(self, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tokens (time, batch) and the state before them to logits (time, batch, vocabulary) and the state after."""
        x = self.embedded(self.embed(tokens))
        states = []
        for number, (lstm, place) in enumerate(zip(self.lstm, self.hidden, strict=True)):
            before = None if state is None else (state[number, :1], state[number, 1:])
            x, after = lstm(x, before)
            x = place(x)
            states.append(torch.cat(after))
        return self.logits(x), torch.stack(states)


class Block(nn.Module):
    """A transformer layer, normalised first: x + attention(norm(x)), then x + mlp(norm(x)). The MLP is twice as wide as
    x: the layer has 8 width^2 weights, as an LSTM layer does. ReLU, as in the image networks: what is off is zero."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width, bias=False)
        self.mixed = nn.Linear(width, width, bias=False)
        self.up, self.relu, self.down = nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        time, batch, width = x.shape
        parts = self.queries_keys_values(self.norm1(x)).view(time, batch, 3, self.heads, width // self.heads)
        queries, keys, values = parts.permute(2, 1, 3, 0, 4)  # each (batch, heads, time, width / heads)
        seen = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        x = x + self.mixed(seen.permute(2, 0, 1, 3).reshape(time, batch, width))
        out: Tensor = x + self.down(self.relu(self.up(self.norm2(x))))
        return out


class TransformerLanguageModel(LanguageModel):
    """Embedding with learned positions, causal self-attention layers, logits.

    The state is the tokens seen before, as many as fit beside the new ones into ``context``. In training it is ignored:
    every window stands alone, as is usual; in evaluation each token is so predicted from up to ``context`` others.
    """

    def __init__(self, vocabulary: int, width: int = 128, layers: int = 2, context: int = 32, heads: int = 4) -> None:
        if width % heads:
            raise ValueError(f"width must be a multiple of {heads}, the number of attention heads; got {width}")
        super().__init__(vocabulary, width)
        self.context = context
        self.position = nn.Embedding(context, width)
        nn.init.normal_(self.position.weight, std=0.1)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As :meth:`LSTMLanguageModel.forward`; raises ValueError for more tokens than ``context``."""
        if len(tokens) > self.context:
            raise ValueError(f"{len(tokens)} tokens at once, but this transformer's context is {self.context}")
        seen = tokens if state is None or self.training else torch.cat([state, tokens])[-self.context :]
        x = self.embed(seen) + self.position.weight[: len(seen), None]
        for block in self.blocks:
            x = block(x)
        return self.logits(self.norm(x[-len(tokens) :])), seen


MODELS = ("lstm", "transformer")


def build_language_model(name: str, vocabulary: int, *, width: int = 128, layers: int = 2, context: int = 32) -> Any:
    """A language model by name: "lstm" or "transformer" (whose context is ``context`` tokens).

    Raises:
        ValueError: an unknown name; sizes that are not whole numbers >= 1.
    """
    check_choice(name, MODELS, "model")
    for what, value in {"vocabulary": vocabulary, "width": width, "layers": layers, "context": context}.items():
        check_whole(value, what)
    if name == "lstm":
        return LSTMLanguageModel(vocabulary, width, layers)
    return TransformerLanguageModel(vocabulary, width, layers, context)


def is_noise_place(name: str, module: nn.Module) -> bool:
    """Where noise sits: the LSTM's embeddings, and the outputs of its layers; the transformer's ReLUs."""
    return isinstance(module, nn.Identity | nn.ReLU)
