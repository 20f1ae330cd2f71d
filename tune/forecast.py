"""`--plan`: what a search would do, about how long it would take, and how much disk it would fill. Trains nothing."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from tune.call import Call, Resolved
from tune.plan import SearchPlan, parameters
from tune.resume import firsts

# Photos a second of one trial at an edge of EDGE_PX, one thread or one GPU. CPU: resnet10t, all stages trained, one core of a busy
# machine (search_spaces.backbones has more). GPU: the order of magnitude of a ResNet-50 in bfloat16; nothing more is claimed.
PHOTOS_PER_SECOND = {"cpu": (65, 112), "gpu": (1000, 256)}
# ASHA's rungs let few trials come to their last epoch; about so many of all epochs are really run.
SHARE_OF_EPOCHS = 0.6
# State and best weights of a trial, as large as when the preset's backbone is trained whole: weights twice, two moments.
TRIAL_MB = {"cpu": 80, "gpu": 1_400}
TRAIN_SHARE = 0.7
DEMO_PHOTOS = 630


def show(call: Call, resolved: Resolved, ended: int = 0) -> None:
    """Print the plan. `ended`: trials that a run to be resumed has already."""
    plan, console = resolved.plan, Console()
    photos = count_photos(call.data, call.skip_bad)
    console.print(f"Space {resolved.space.name}: {resolved.space.question}", highlight=False)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("parameter", no_wrap=True)
    table.add_column("from")
    for parameter in parameters(plan.space, plan.setting):
        table.add_row(parameter.name, parameter.domain + ("" if parameter.always else " (in some trials)"))
    console.print(table)
    gpus = f", {plan.gpus:g} GPUs" if plan.gpus else ""
    console.print(
        f"Trials: {plan.trials - ended}{f' more than the {ended} there are' if ended else ''}, {plan.parallel} at a time, "
        f"{plan.cpus} core{'s' * (plan.cpus > 1)}{gpus} each; "
        f"first the preset {call.preset}, then {len(firsts(plan)) - 1} known points.",
        highlight=False,
    )
    console.print(
        f"Epochs: up to {plan.base.epochs} each, {photos:,} photos at {plan.base.image_size} px; worse trials are stopped early.",
        highlight=False,
    )
    console.print(f"Time: very roughly {hours(seconds(plan, photos, plan.trials - ended))}; backbones and machines vary.", highlight=False)
    console.print(
        f"Disk: up to {gigabytes(plan.trials * TRIAL_MB[plan.setting.scale] * 1e6)} in the run, "
        f"{gigabytes(photos * plan.base.image_size**2 * 3)} of decoded photos in the cache.",
        highlight=False,
    )


def seconds(plan: SearchPlan, photos: int, trials: int) -> float:
    """A rough guess, from a rate that was measured once and the number of pixels."""
    rate, edge_px = PHOTOS_PER_SECOND[plan.setting.scale]
    per_epoch = photos * TRAIN_SHARE / (rate * (edge_px / plan.base.image_size) ** 2)
    return trials * plan.base.epochs * SHARE_OF_EPOCHS * per_epoch / plan.parallel


def count_photos(data: str | None, skip_bad: bool) -> int:
    """Photos that would be read. Raises DataError where it would refuse the folder by its table and its files' names."""
    if data is None:
        return DEMO_PHOTOS
    from maskcls.data.photos import read_contest

    return len(read_contest(Path(data), skip_bad=skip_bad))


def hours(seconds: float) -> str:
    """`5 min` or `3.5 h`, no finer than a guess deserves."""
    return f"{max(1, round(seconds / 60))} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def gigabytes(n_bytes: float) -> str:
    """`2.5 GB`, or `80 MB` where that says more."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.0f} MB"
