"""Template of a judge's prompt: the standards, the shared context and one member's play as sandboxed Jinja texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from mmo_rl.errors import ConfigError
from mmo_rl.judge.base import JudgeParts
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
    """Rendered texts of one prompt: ``trajectories`` in the order of presentation, ``context`` empty without one."""

    rubric: str
    context: str
    trajectories: tuple[str, ...]


class Template:
    """Three texts of a prompt: ``rubric`` (the standards), ``context`` (shared by all members: the ground truth, or
    nothing) and ``trajectory`` (one member's play).

    Every inserted value is written as JSON in which no character can end the fence around it; the filter ``clip(n)``
    shortens a long text. ``truth`` is none where a window's outcomes were not recorded. A text that does not parse, or
    names something that does not exist, raises `ConfigError` in `check_keys`, which renders built-in sample groups.
    """

    def __init__(
        self,
        *,
        name: str,
        rubric: str,
        context: str,
        trajectory: str,
        parts: JudgeParts = JudgeParts(),  # noqa: B008  # frozen
    ) -> None:
        self.name = name
        self._vocabulary = parts.vocabulary
        self._texts = {"rubric": rubric, "context": context, "trajectory": trajectory}
        self._shown: tuple[Group, dict[str, object]] | None = None

    @staticmethod
    def check_keys(*, name: str, rubric: str, context: str, trajectory: str) -> None:
        """Raises `ConfigError` where one of the texts cannot be used."""
        for part, text in (("rubric", rubric), ("trajectory", trajectory)):
            if not text.strip():
                raise ConfigError(f"judge.template {name!r}: its {part} is empty", hint=f"set judge.template.{part}")
        template = Template(name=name, rubric=rubric, context=context, trajectory=trajectory)
        for group in sample_groups():
            template.render(group, group.members)

    @cached_property
    def _compiled(self) -> Mapping[str, tuple[jinja2.Template, frozenset[str]]]:
        """The compiled texts by part, each with the variables that it uses."""
        environment = _environment()
        return {part: _compile(environment, self.name, part, text) for part, text in self._texts.items()}

    @property
    def uses_truth(self) -> bool:
        """True where a text shows the window's ground truth."""
        return any("truth" in variables for _, variables in self._compiled.values())

    def render(self, group: Group, members: Sequence[Trajectory]) -> Rendered:
        """Renders the texts for ``members`` of ``group``, in the order given.

        Raises `ConfigError` where a value that the template computes with is missing in this group.
        """
        rubric, context = self.shared(group)
        return Rendered(rubric, context, tuple(self.member(group, self.view(group, member)) for member in members))

    def shared(self, group: Group) -> tuple[str, str]:
        """Renders the rubric and the context, which all members of ``group`` share. Raises as `render` does."""
        variables = self._variables(group)
        return self._text("rubric", {"window": variables["window"]}), self._text("context", variables)

    def view(self, group: Group, member: Trajectory) -> TrajectoryView:
        """Returns the view of one member that the template may show."""
        return trajectory_view(member, group.window, group.truth, self._vocabulary)

    def member(self, group: Group, view: TrajectoryView) -> str:
        """Renders one member. Raises `ConfigError` as `render` does."""
        return self._text("trajectory", {**self._variables(group), "trajectory": view})

    def _variables(self, group: Group) -> dict[str, object]:
        """Returns the variables that all members of a group share; kept for the group that is being shown."""
        if self._shown is None or self._shown[0] is not group:
            self._shown = (group, {"window": window_view(group), "truth": truth_view(group.truth)})
        return self._shown[1]

    def _text(self, part: str, variables: Mapping[str, object]) -> str:
        """Renders one part."""
        import jinja2

        try:
            return self._compiled[part][0].render(variables).strip()
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise ConfigError(
                f"judge.template {self.name!r} cannot be rendered: {part}: {error}",
                hint=f"its variables are {', '.join(sorted(VARIABLES[part]))}; "
                "guard what may be missing with {% if ... is not none %}",
            ) from error


def _environment() -> jinja2.Environment:
    """Returns a sandboxed environment that inserts every value as fenced JSON and refuses undefined names."""
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def finalize(value: object) -> str:
        if isinstance(value, jinja2.Undefined):
            return str(value)  # StrictUndefined raises here and names what is missing
        return encode(value)

    class Environment(ImmutableSandboxedEnvironment):
        def getattr(self, obj: object, attribute: str) -> object:
            # A view's own fields are always allowed; everything else takes the sandbox's long way.
            if attribute in FIELDS.get(type(obj), ()):
                return getattr(obj, attribute)
            return super().getattr(obj, attribute)

    environment = Environment(
        undefined=jinja2.StrictUndefined, finalize=finalize, autoescape=False, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["clip"] = clip
    return environment


def _compile(
    environment: jinja2.Environment, name: str, part: str, text: str
) -> tuple[jinja2.Template, frozenset[str]]:
    """Compiles one text; also returns the variables that it uses."""
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
    return compiled, frozenset(variables)
