"""One capture on this machine: its disk becomes the next version of an image on the appliance.

Only chunks that the appliance lacks are sent; nothing is visible there before all of it is published.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from imager.agent.inventory import choose_disk, describe_size
from imager.agent.tasks import TaskContext
from imager.image.capture import capture_source, describe_capture, plan_capture
from imager.image.manifest import Chunk
from imager.wire.messages import CaptureTask

STEPS = ("preflight", "capture", "upload")
UPLOADS = 2
"""Chunks on their way at once: one is sent while the appliance checks the other."""


def run_capture(task: CaptureTask, context: TaskContext) -> None:
    """Do it. Raises an ImagerError; then the appliance keeps nothing of it."""
    meter = context.meter
    meter.begin("preflight")
    disk = choose_disk(task.source, context.disks(), role="source")
    plan = plan_capture(Path(disk.device))
    context.say(f"{disk.device}: {describe_size(plan.used_bytes)} in use of {describe_size(plan.source_bytes)}")
    for number, why in plan.raw_parts.items():
        context.say(f"partition {number} is imaged whole: {why}" if number else f"the disk is imaged whole: {why}")
    meter.begin("capture", plan.used_bytes)
    chunks: list[Chunk] = []
    sent = 0

    def is_known(chunk_hash: bytes) -> bool:
        return context.client.has_chunk(context.task_id, chunk_hash)

    with ThreadPoolExecutor(UPLOADS, "upload") as pool:
        pending: list[Future[None]] = []
        for chunk, stored in capture_source(plan.source, plan=plan, is_known=is_known, on_progress=meter.set_done):
            context.check_wanted()
            chunks.append(chunk)
            if not stored:
                continue
            sent += len(stored)
            if len(pending) >= UPLOADS:
                pending.pop(0).result()
            pending.append(pool.submit(context.client.put_chunk, context.task_id, chunk.hash, stored))
        for future in pending:
            future.result()
    meter.begin("upload")
    context.say(f"{len(chunks)} chunks read, {describe_size(sent)} sent; publishing")
    manifest = describe_capture(plan, task.image, tuple(chunks))
    context.client.publish(context.task_id, manifest.body())
