"""The Hugging Face Trainer."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from tests.frameworks.matrix import Run
from tests.python.small_training import NUM_EPOCHS


def train_hf(run: Run, **arguments: Any) -> None:
    """arguments: of ``TrainingArguments``."""
    import transformers

    from batchsampler_ext.integrations.transformers import set_batch_sampler

    transformers.logging.set_verbosity_error()
    training = run.training

    class Trainer(transformers.Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None) -> torch.Tensor:
            return training.loss(inputs.pop("indices"), inputs["x"], model)

    class SaveAt(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs) -> None:
            control.should_save = run.is_place

    settings = transformers.TrainingArguments(
        str(run.save), num_train_epochs=NUM_EPOCHS, save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True,
        logging_strategy="no", remove_unused_columns=False, max_grad_norm=0,
        per_device_train_batch_size=training.sampler.batch_size, **arguments,
    )  # fmt: skip
    optimizers = training.optimizer, torch.optim.lr_scheduler.LambdaLR(training.optimizer, lambda step: 1.0)
    rows = [{"x": x} for x in training.data]
    trainer = Trainer(training.encoder, settings, train_dataset=rows, callbacks=[SaveAt()], optimizers=optimizers)
    set_batch_sampler(trainer, training.sampler)
    training.fill()
    checkpoint = None if run.load is None else str(run.load / f"checkpoint-{training.num_before}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'pin_memory' argument is set as true")
        trainer.train(resume_from_checkpoint=checkpoint)
