"""The adapter's README.md, as the hub shows it, and the way there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from .._files import replace_text
from ..coarse.adapter import Adapter
from ..families import published
from .settings import TrainSettings

EMBEDDED = {"embedded:flux": {"license": "apache-2.0"}}
FILES = ["adapter.safetensors", "adapter.json", "README.md"]


def licence_of(base: str) -> dict[str, str]:
    """The licence of a base as its makers state it; an adapter is made from its base's weights and carries it."""
    known = published()
    return dict(known[base].licence) if base in known else EMBEDDED.get(base, {"license": "unknown"})


def write_card(folder: Path, adapter: Adapter, settings: TrainSettings, data: str) -> None:
    """Write ``README.md`` beside the adapter's files: base, licence, how it was made, how it is used."""
    base = settings.model.path
    hub = "/" in base and not Path(base).exists()
    licence = (
        {"license": settings.output.licence} if settings.output.licence is not None else licence_of(base)
    )
    head: dict[str, Any] = {"library_name": "ddit_ext", "tags": ["ddit", "diffusers", "adapter"], **licence}
    if hub:
        head["base_model"] = base
    record = adapter.training_record.get("distill", {})
    sizes = ", ".join(f"{scale}" for scale in adapter.scales)
    named = settings.output.licence or licence.get("license_name", licence["license"])
    unknown = " (name it with output.licence before you publish)" if named == "unknown" else ""
    training = settings.training
    text = f"""---
{yaml.safe_dump(head, sort_keys=False).strip()}
---

# Patch scales {sizes} for {base}

An adapter for [ddit_ext](https://arxiv.org/abs/2602.16968): with it {base} can run denoising steps with larger
patches, so with fewer tokens. It is no model by itself.

```python
import ddit_ext

handle = ddit_ext.patch(pipe, "folder of this adapter")  # pipe: the diffusers pipeline of {base}
```

## Licence

That of the base model, {base}, from whose weights it was made: {named}{unknown}.

## How it was made

| | |
|---|---|
| base | {base}{f", revision {settings.model.revision}" if settings.model.revision else ""} |
| data | {data} |
| steps | {record.get("steps", 0)} of {training.steps} |
| samples a step | {settings.data.batch * training.accumulate} in each process |
| optimiser | {training.optimizer}, learning rate {training.peak_lr:g}, {training.schedule} |
| noise ranges | {", ".join(f"scale {s}: {training.range_of(s)[0]:g} to {training.range_of(s)[1]:g}" for s in adapter.scales)} |
| LoRA rank | {settings.adapter.rank} |
| versions | ddit_ext {record.get("ddit_ext", "?")}, torch {record.get("torch", "?")} |

`adapter.json` holds every setting and a fingerprint of the base.
"""
    replace_text(folder / "README.md", text)


def push(folder: Path, repository: str, private: bool) -> str:
    """Upload the adapter's folder to the hub; returns the address of the commit.

    Raises:
        RuntimeError: the hub refused or could not be reached; the files are in ``folder`` as before.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(repository, repo_type="model", private=private, exist_ok=True)
        return str(
            api.upload_folder(
                repo_id=repository,
                folder_path=str(folder),
                repo_type="model",
                allow_patterns=FILES + [f"*/{name}" for name in FILES],  # Wan 2.2: a subfolder a transformer
                commit_message="Upload the adapter",
            )
        )
    except Exception as error:  # some errors of the hub's transport have no base but this
        raise RuntimeError(
            f"output.push_to_hub: {repository} could not be uploaded: {error}; the adapter is in {folder}"
        ) from error
