"""What ``mmo-rl task=NAME`` does: one module a task, with ``async def run(context, *, <keys of the task's own node>)``.

It gets a `mmo_rl.config.Context` and returns None, its main metric (a float, which sweepers optimise), or an exit code
(a whole number from 1 to 3). ``conf/task/NAME.yaml`` names it; modules that begin with an underscore are no tasks.
"""
