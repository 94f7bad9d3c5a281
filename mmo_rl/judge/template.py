"""What a judge is shown and by which standards it judges: three Jinja texts, rendered in a sandbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmo_rl.errors import ConfigError
from mmo_rl.judge.sample import sample_groups
from mmo_rl.judge.view import FIELDS, TrajectoryView, clip, encode, trajectory_view, truth_view, window_view
from mmo_rl.types import Group, Trajectory

if TYPE_CHECKING:
    import jinja2

VARIABLES = {
    "rubric": frozenset({"window"}),
    "context": frozenset({"window", "truth"}),
    "trajectory": frozenset({"window", "truth", "trajectory"}),
}
"""The variables that each part of a template may use; their attributes are the fields of `mmo_rl.judge.view`."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """The texts of one prompt; ``trajectories`` in the order of presentation, ``context`` empty where there is none."""

    rubric: str
    context: str
    trajectories: tuple[str, ...]


class Template:
    """``rubric`` (the standards), ``context`` (what all members share: the ground truth, or nothing) and
    ``trajectory`` (one member's play).

    Every inserted value is written as JSON in which no character can end the fence around it; the filter ``clip(n)``
    shortens a long text. ``truth`` is none where a window's outcomes were not recorded. Raises `ConfigError` at
    construction where a text does not parse or names something that does not exist: it is rendered for built-in
    sample groups first.
    """

    def __init__(self, *, name: str, rubric: str, context: str, trajectory: str) -> None:
        if not rubric.strip() or not trajectory.strip():
            empty = "rubric" if not rubric.strip() else "trajectory"
            raise ConfigError(f"judge.template {name!r}: its {empty} is empty", hint=f"set judge.template.{empty}")
        self.name = name
        environment = _environment()
        self._parts: dict[str, jinja2.Template] = {}
        used: set[str] = set()
        for part, text in (("rubric", rubric), ("context", context), ("trajectory", trajectory)):
            self._parts[part], variables = _compile(environment, name, part, text)
            used |= variables
        self.uses_truth = "truth" in used
        self._shown: tuple[Group, dict[str, object]] | None = None
        for group in sample_groups():
            self.render(group, group.members)

    def render(self, group: Group, members: Sequence[Trajectory]) -> Rendered:
        """The texts for ``members`` of ``group``, in the order given. Raises `ConfigError` where a value that the
        template computes with is missing in this group."""
        rubric, context = self.shared(group)
        return Rendered(rubric, context, tuple(self.member(group, self.view(group, member)) for member in members))

    def shared(self, group: Group) -> tuple[str, str]:
        """The rubric and the context, which all members of ``group`` share. Raises `ConfigError` as `render` does."""
        variables = self._variables(group)
        return self._text("rubric", {"window": variables["window"]}), self._text("context", variables)

    def view(self, group: Group, member: Trajectory) -> TrajectoryView:
        """What the template may show of one member."""
        return trajectory_view(member, group.window, group.truth)

    def member(self, group: Group, view: TrajectoryView) -> str:
        """The text of one member. Raises `ConfigError` as `render` does."""
        return self._text("trajectory", {**self._variables(group), "trajectory": view})

    def _variables(self, group: Group) -> dict[str, object]:
        """What all members of a group share; kept for the group that is being shown."""
        if self._shown is None or self._shown[0] is not group:
            self._shown = (group, {"window": window_view(group), "truth": truth_view(group.truth)})
        return self._shown[1]

    def _text(self, part: str, variables: Mapping[str, object]) -> str:
        import jinja2

        try:
            return self._parts[part].render(variables).strip()
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise ConfigError(
                f"judge.template {self.name!r} cannot be rendered: {part}: {error}",
                hint=f"its variables are {', '.join(sorted(VARIABLES[part]))}; "
                "guard what may be missing with {% if ... is not none %}",
            ) from error


def _environment() -> jinja2.Environment:
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def finalize(value: object) -> str:
        if isinstance(value, jinja2.Undefined):
            return str(value)  # StrictUndefined raises here and names what is missing
        return encode(value)

    class Environment(ImmutableSandboxedEnvironment):
        def getattr(self, obj: Any, attribute: str) -> Any:
            # A view's own fields are what templates are for; everything else takes the sandbox's long way.
            if attribute in FIELDS.get(type(obj), ()):
                return getattr(obj, attribute)
            return super().getattr(obj, attribute)

    environment = Environment(
        undefined=jinja2.StrictUndefined, finalize=finalize, autoescape=False, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["clip"] = clip
    return environment


def _compile(environment: jinja2.Environment, name: str, part: str, text: str) -> tuple[jinja2.Template, set[str]]:
    import jinja2
    from jinja2 import meta

    try:
        variables = meta.find_undeclared_variables(environment.parse(text))
        compiled = environment.from_string(text)
    except jinja2.TemplateError as error:
        line = f", line {error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else ""
        raise ConfigError(
            f"judge.template {name!r} does not parse: {part}{line}: {error.message}",
            hint=f"correct judge.template.{part}",
        ) from error
    # Rendering the samples would miss a name in a branch that they do not take.
    unknown = sorted(variables - VARIABLES[part] - set(environment.globals))
    if unknown:
        raise ConfigError(
            f"judge.template {name!r}: {part} uses unknown variable {', '.join(map(repr, unknown))}",
            hint=f"{part} may use: {', '.join(sorted(VARIABLES[part]))}",
        )
    return compiled, variables
