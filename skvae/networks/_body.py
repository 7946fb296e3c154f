"""What built-in networks share: a body, an output layer on top of it, a linear path beside both."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from skvae.networks._base import NetworkHead, Outlet
from skvae.networks._layers import OUTPUT_GAIN, Linear, LinearPath


class BodyHead(NetworkHead):
    """Network of which a subclass adds the body.

    It makes the layers of its body, then calls `add_output_`, and says in `body` what they compute
    and in `initialize_body_` how they start.

    Attributes
    ----------
    dropout : float
        Share of the activities to drop in training.
    dropped_widths : sequence of int
        Widths of the activities that are dropped from, in the order of `drops`.
    entry : str or None
        Name of the layer by which all inputs enter the body; None if there is no such layer.
    """

    dropout: float = 0.0
    dropped_widths: Sequence[int] = ()
    entry: str | None = None
    output: nn.Module
    linear_path: LinearPath | None

    @abstractmethod
    def body(self, inputs: Tensor, noise: Mapping[str, Tensor] | None) -> Tensor:
        """What the output layer reads.

        Parameters
        ----------
        inputs : Tensor of shape (n_rows, n_inputs)
        noise : mapping of str to Tensor, or None
        """

    @abstractmethod
    def initialize_body_(self, generator: torch.Generator, scale: float | None) -> None:
        """Draw the weights of the body anew, by their fan-in or of the given scale."""

    def add_output_(
        self,
        n_inputs: int,
        n_outputs: int,
        *,
        n_location_outputs: int,
        output: nn.Module,
        dtype: torch.dtype,
    ) -> None:
        """Add the linear path, where there are location outputs for it, and the output layer.

        Parameters
        ----------
        n_inputs, n_outputs : int
        n_location_outputs : int
            0 for no linear path.
        output : Module
            Layer with `weight` and `bias` (n_outputs,), called with what `body` says and the number
            of outputs wanted, and an `initialize_` as that of :class:`Linear`.
        dtype : torch.dtype
        """
        self.n_outputs = n_outputs
        self.n_location_outputs = n_location_outputs
        self.linear_path = (
            LinearPath(n_inputs, n_location_outputs, bias=False, dtype=dtype)
            if n_location_outputs
            else None
        )
        self.output = output

    def initialize_(self, generator: torch.Generator, scale: float | None = None) -> None:
        """Draw all weights anew."""
        self.initialize_body_(generator, scale)
        self.output.initialize_(generator, gain=OUTPUT_GAIN, scale=scale)
        if self.linear_path is not None:
            self.linear_path.initialize_(generator, gain=OUTPUT_GAIN, scale=scale)

    @property
    def noise_widths(self) -> dict[str, int]:
        """Noise of the dropout, one number for each activity that may be dropped."""
        width = sum(self.dropped_widths)
        return {"dropout": width} if self.dropout and width else {}

    def drops(self, noise: Mapping[str, Tensor] | None) -> Sequence[Tensor | None]:
        """For each of `dropped_widths` the noise that decides what is dropped, or None."""
        if noise is None or not self.noise_widths:
            return [None] * len(self.dropped_widths)
        return noise["dropout"].split(list(self.dropped_widths), dim=-1)

    def forward(self, inputs: Tensor, noise: Mapping[str, Tensor] | None = None) -> Tensor:
        return self._outputs(inputs, noise, self.n_outputs)

    def first_outputs(self, inputs: Tensor, n_outputs: int) -> Tensor:
        return self._outputs(inputs, None, n_outputs)

    def _outputs(
        self, inputs: Tensor, noise: Mapping[str, Tensor] | None, n_outputs: int
    ) -> Tensor:
        if inputs.ndim != 2:
            if noise is not None:
                # It may be shared by rows.
                axes = inputs.shape[:-1]
                noise = {name: t.expand(*axes, -1).flatten(0, -2) for name, t in noise.items()}
            outputs = self._outputs(inputs.flatten(0, -2), noise, n_outputs)
            return outputs.view(*inputs.shape[:-1], n_outputs)
        outputs = self.output(self.body(inputs, noise), n_outputs)
        if self.linear_path is None:
            return outputs
        n_linear = min(self.n_location_outputs, n_outputs)
        linear = self.linear_path(inputs, n_linear)
        if n_linear == n_outputs:
            return outputs + linear
        return outputs + functional.pad(linear, (0, n_outputs - n_linear))

    @property
    def has_linear_path(self) -> bool:  # type: ignore[override]
        """Whether there is a linear path."""
        return self.linear_path is not None

    def inlets(self) -> Sequence[tuple[str, str]] | None:
        if self.entry is None:
            return None
        found = [(f"{self.entry}.weight", f"{self.entry}.bias")]
        if self.get_parameter(found[0][0]).shape[0] == 0:
            found = []  # a bias beside the linear path
        if self.linear_path is not None:
            found.append(("linear_path.weight", "output.bias"))
        return found

    def outlet(self) -> Outlet | None:
        if type(self.output) is not Linear:
            return None
        path = [] if self.linear_path is None else ["linear_path.weight"]
        return Outlet(["output.weight", *path], "output.bias")

    def start_at(self, outputs: Tensor) -> None:
        with torch.no_grad():
            self.output.bias.add_(outputs.to(self.output.bias.dtype))

    def start_linear_(self, weight: Tensor, outputs: Tensor) -> None:
        assert self.linear_path is not None
        with torch.no_grad():
            self.linear_path.weight.copy_(weight)
            # The body keeps its random weights: what it computes is there to be used as soon as
            # the output layer finds a use for it.
            self.output.weight.zero_()
            self.output.bias.copy_(outputs)

    def silence_linear_path_(self) -> None:
        assert self.linear_path is not None
        with torch.no_grad():
            self.linear_path.weight.zero_()
