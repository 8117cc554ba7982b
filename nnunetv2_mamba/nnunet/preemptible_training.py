"""Trainings that can be stopped at any moment and leave a checkpoint to continue from, whichever the trainer."""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed as dist
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from .checkpoint import checkpoint_written_whole, remove_unfinished
from .names import FINAL_CHECKPOINT, LATEST_CHECKPOINT
from .preemption import TerminationRequest


class PreemptibleTraining(nnUNetTrainer):
    """To be inherited from in front of one of nnU-Net's trainers.

    A signal (see ``preemption``) stops the training before its next step; ``--c`` then repeats the epoch that was under
    way, with the weights as they were. A killed process leaves no half-written checkpoint.
    """

    _termination = TerminationRequest()  # not in force: nothing asks to stop outside of run_training
    _all_know = False  # that one of them was asked to stop: the processes of several GPUs

    def run_training(self) -> None:
        """nnU-Net's loop. When a signal asks to stop it writes ``checkpoint_latest.pth`` and exits with status 128 +
        the signal's number."""
        self._termination = TerminationRequest()
        self._termination.obeyed_by(super().run_training, self._stop_in_order)

    def _stop_in_order(self, signal_name: str) -> None:
        if self.local_rank == 0 and self.was_initialized and not self.disable_checkpointing:
            self._save_for_continuation(signal_name)
        if self.is_ddp and not self._all_know:
            with suppress(RuntimeError):  # others may have ended
                self._tell_all()

    def _save_for_continuation(self, signal_name: str) -> None:
        epoch, logged = self.current_epoch, self.logger.get_checkpoint()
        self.logger.load_checkpoint({key: values[:epoch] for key, values in logged.items()})
        self.current_epoch -= 1  # save_checkpoint writes the number of the epoch that comes next
        self.save_checkpoint(str(Path(self.output_folder) / LATEST_CHECKPOINT))
        self.current_epoch += 1
        self.print_to_log_file(f"{signal_name}: wrote {LATEST_CHECKPOINT} in epoch {epoch}; --c continues")

    def train_step(self, batch: dict) -> dict:
        """As the trainer's.

        Raises:
            preemption.Preempted: if a signal came that asks to stop.
        """
        self._stop_if_asked()
        return super().train_step(batch)

    def validation_step(self, batch: dict) -> dict:
        """As the trainer's; raises as ``train_step`` does."""
        self._stop_if_asked()
        return super().validation_step(batch)

    def _stop_if_asked(self) -> None:
        """Raise Preempted; of several GPUs' processes in all before the same step.

        One that had its signal a moment later would begin the step and wait for ever for the others' gradients; the
        first would write no checkpoint. The others wait here for the word of one that stops (``_stop_in_order``), also
        where its data loading has died of the signal.
        """
        if self.is_ddp and self._termination.received is None:
            self._tell_all()
            if not self._all_know:
                return  # a signal that came meanwhile counts before the next step: the others begin this one
        self._termination.check()

    def _tell_all(self) -> None:
        """Let every process know of a signal that one has had; all must call this."""
        number = torch.tensor(int(self._termination.received or 0), device=self.device)
        dist.all_reduce(number, dist.ReduceOp.MAX)
        self._all_know = bool(number)
        if self._all_know and self._termination.received is None:
            self._termination.received = signal.Signals(int(number))

    def on_train_start(self) -> None:
        """As the trainer's; then removes what a killed process left."""
        super().on_train_start()
        if self.local_rank == 0:
            for path in remove_unfinished(Path(self.output_folder)):
                self.print_to_log_file(f"Removed {path.name}, which a killed process had not finished writing.")

    def load_checkpoint(self, checkpoint: dict | str) -> None:
        """As the trainer's, but ``--c`` takes the latest checkpoint where that is newer than the final one.

        nnU-Net removes the one when it has written the other. Where both are there, the final one is of before the
        training was prolonged, or of one that was in the folder before.
        """
        if self.logger.resume and isinstance(checkpoint, str) and Path(checkpoint).name == FINAL_CHECKPOINT:
            latest = Path(checkpoint).with_name(LATEST_CHECKPOINT)
            if latest.is_file() and latest.stat().st_mtime_ns > Path(checkpoint).stat().st_mtime_ns:
                self.print_to_log_file(f"{LATEST_CHECKPOINT} is newer than {FINAL_CHECKPOINT}; continuing from it")
                checkpoint = str(latest)
        super().load_checkpoint(checkpoint)

    def save_checkpoint(self, filename: str) -> None:
        """As the trainer's; ``filename`` is replaced only once the new one is complete."""
        if self.local_rank != 0 or self.disable_checkpointing:  # nothing is written
            super().save_checkpoint(filename)
            return
        with checkpoint_written_whole(Path(filename)) as temporary:
            super().save_checkpoint(str(temporary))
