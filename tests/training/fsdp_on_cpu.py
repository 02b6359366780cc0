"""Runs `examples/train.py` with FSDP2 on CPU processes: `torchrun --nproc_per_node 2 fsdp_on_cpu.py ARGUMENTS`.

Accelerate applies FSDP to accelerators only. Here its state is told otherwise, so that sharding, which works over
gloo, is tested without a GPU. Exit code 4: nothing was sharded.
"""

import runpy
import sys
from pathlib import Path

import yaml
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin, PartialState
from torch.distributed.fsdp import FSDPModule

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TRAIN = EXAMPLES / "train.py"
CONFIG = yaml.safe_load((EXAMPLES / "configs" / "accelerate_fsdp2.yaml").read_text(encoding="utf-8"))
WRAPPED = CONFIG["fsdp_config"]["fsdp_transformer_layer_cls_to_wrap"].split(",")


def main() -> int:
    state = Accelerator(cpu=True).state
    PartialState().distributed_type = DistributedType.FSDP
    state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        reshard_after_forward=True,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=WRAPPED,
        cpu_ram_efficient_loading=False,
    )
    sys.argv[0] = str(TRAIN)
    train = runpy.run_path(str(TRAIN))
    prepare = Accelerator.prepare
    sharded = []

    def watched(self, model, *others):
        prepared = prepare(self, model, *others)
        sharded.extend(module for module in prepared[0].modules() if isinstance(module, FSDPModule))
        return prepared

    Accelerator.prepare = watched
    code = train["main"]()
    return code if len(sharded) > 5 else code or 4


if __name__ == "__main__":
    sys.exit(main())
