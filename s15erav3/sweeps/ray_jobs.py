"""``hydra/launcher=ray``: each job is a task of a Ray cluster, started again elsewhere when its node is lost.

hydra-ray-launcher 1.2.2 cannot be installed beside current packages (cloudpickle<3), loses the whole sweep with one
process, reuses processes, and waits forever for a node that there is not.
"""

from __future__ import annotations

from typing import Any

from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from s15erav3.cli.schema.check import check_part
from s15erav3.cli.schema.train import Ray
from s15erav3.sweeps import ray_cluster
from s15erav3.sweeps.live_table import Board
from s15erav3.sweeps.own_launcher import OwnLauncher
from s15erav3.sweeps.planned import Planned
from s15erav3.sweeps.ray_tasks import Tasks


class RayJobs(OwnLauncher):
    """Run each job as a task of a Ray cluster.

    Args:
        address, num_cpus, num_gpus, max_retries, node_timeout_s, options: see ``conf/hydra/launcher/ray.yaml``.

    Raises:
        UserError: a setting is out of range, or Ray is not installed.
    """

    def __init__(
        self, address: Any, num_cpus: Any, num_gpus: Any, max_retries: Any, node_timeout_s: Any, options: Any
    ) -> None:
        options = OmegaConf.to_container(options) if OmegaConf.is_config(options) else options
        given = {"address": address, "num_cpus": num_cpus, "num_gpus": num_gpus, "max_retries": max_retries}
        check_part("hydra.launcher", given | {"node_timeout_s": node_timeout_s, "options": options}, Ray)
        ray_cluster.require_ray()
        self.address, self.num_cpus, self.num_gpus, self.options = address, num_cpus, num_gpus, options
        self.max_retries, self.node_timeout_s = max_retries, node_timeout_s
        self.board = Board([])

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Set up as Hydra requires, before :meth:`launch`.

        Raises:
            UserError: no cluster answers.
        """
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        ray_cluster.check_address(self.address)

    def run(self, jobs: list[Planned]) -> None:
        """Run jobs to their ends.

        Raises:
            UserError: no node has what a job asks for.
            Interrupted: a signal requested the end; the jobs have saved.
        """
        with ray_cluster.connected(self.address):
            Tasks(self, self.board).run(jobs)
