"""The model as a function on images, within everything that keeps the training undisturbed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import RunningStage
from torch import Tensor

from lightning_memaudit.callback.isolation import Buffers, default_dtype, in_stage, silent_loggers, undisturbed
from lightning_memaudit.callback.model import ModelCall
from lightning_memaudit.callback.run_inspection import has_spread_weights
from lightning_memaudit.callback.seen import Seen
from lightning_memaudit.callback.suggested_call import suggested_call
from lightning_memaudit.measurement.channels_last import ChannelsLast
from lightning_memaudit.measurement.lockstep import Lockstep
from lightning_memaudit.measurement.processes import AuditInterrupted, Processes


@dataclass
class Caller:
    """Calls the model of a run for its audits.

    Attributes:
        trainer: Whose precision and strategy apply.
        pl_module: The model.
        how: How it is called.
        processes: Of the run.

    >>> import torch
    >>> from lightning_memaudit.training.module import AutoencoderModule
    >>> model = AutoencoderModule(torch.nn.Dropout())
    >>> caller = Caller(Trainer(accelerator="cpu", logger=False), model, ModelCall(), Processes())
    >>> with caller.autoencoder(Seen()) as (autoencoder, _):  # in eval mode
    ...     autoencoder(torch.ones(1, 1, 8, 8)).unique().item()
    1.0
    """

    trainer: Trainer
    pl_module: LightningModule
    how: ModelCall
    processes: Processes
    _lockstep: Lockstep | None = None

    @property
    def owners(self) -> list[object]:
        """The model, the data module and what reconstructs: what a call of the model may change."""
        others = getattr(self.trainer, "datamodule", None), self.how.reconstruct
        return [self.pl_module, *(one for one in others if one is not None)]

    @contextmanager
    def undisturbed(self) -> Iterator[Buffers]:
        """Within: whatever is called leaves the model, the data module and what reconstructs as they were."""
        with undisturbed(self.pl_module, *self.owners[1:]) as buffers, silent_loggers(self.trainer):
            yield buffers

    @contextmanager
    def autoencoder(self, seen: Seen | None) -> Iterator[tuple[Any, Processes]]:
        """The model as a function on images in [0, 1], and the processes with which it works.

        Args:
            seen: What the model sees.
        """
        with self.calling() as (forward, processes):
            yield self.how.autoencoder(forward, seen, self.how.takes_batch(self.pl_module)), processes

    @contextmanager
    def calling(self) -> Iterator[tuple[Callable[[Any], Any], Processes]]:
        """The model's call on what it sees."""
        processes, precision, strategy = self.processes, self.trainer.precision_plugin, self.trainer.strategy
        default = torch.get_default_dtype()
        call: Callable[[Any], Any] = ChannelsLast(self.how.bind(self.pl_module), self.pl_module)
        if has_spread_weights(self.trainer):
            call = self.how.bind(self.pl_module, strategy.model)
            # One for the whole run: it keeps the input of the check before the first step, with which a process that
            # has no images of its own takes part in the calls of the others.
            self._lockstep = self._lockstep or Lockstep(call, processes)
            call, processes = self._lockstep, replace(processes, finish=self._lockstep.finish)

        def forward(images: Any) -> Any:
            if self.trainer.received_sigterm:
                raise AuditInterrupted("SIGTERM")
            processes.check()
            with default_dtype(default), precision.forward_context():
                output = call(precision.convert_input(images))
            buffers.put_back_if_written()
            return output

        stage = in_stage(self.trainer, RunningStage.VALIDATING)
        with self.undisturbed() as buffers, stage, default_dtype(torch.float32):
            yield forward, processes

    def suggestion(self, seen: Seen, images: Tensor) -> str:
        """How to call what is no autoencoder as it is called; empty where nothing is known.

        Args:
            seen: What the model sees.
            images: A few, (B, C, *spatial) in [0, 1].
        """
        if self.how.reconstruct != "forward" or has_spread_weights(self.trainer):
            return ""
        found = suggested_call(self.pl_module, seen, images)
        return "" if found is None else f"if training_step calls the model so, pass reconstruct={found}"
