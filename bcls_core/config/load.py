"""A recipe from its layers: YAML file, then environment (`BCLS__TRAIN__EPOCHS=3`), then `--set train.epochs=3`."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from bcls_core.config.base import Section
from bcls_core.config.recipe import Recipe, RuntimeSettings
from bcls_core.errors import ConfigError

S = TypeVar("S", bound=Section)

_VARIABLE = re.compile(r"\$\{(\w+)\}")
_SECRET = re.compile("password|token|secret|uri")
_TAGS = ("loss", "kind", "preset", "source")


class _Layers(BaseSettings):
    """File and environment as plain dictionaries, merged key by key; `Recipe` then checks the result once."""

    model_config = SettingsConfigDict(env_prefix="BCLS__", env_nested_delimiter="__", extra="allow", frozen=True)

    name: str | None = None
    ingest: dict[str, Any] = {}
    label: dict[str, Any] = {}
    train: dict[str, Any] = {}
    evaluate: dict[str, Any] = {}
    registry: dict[str, Any] = {}
    runtime: dict[str, Any] = {}
    methods: dict[str, Any] = {}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic-settings'
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - a .env file is not one of the documented layers
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, where PyYAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads and checks a recipe; imports neither torch nor ray nor mlflow.

    Args:
        path: YAML file; `${NAME}` in its strings is replaced from the environment.
        overrides: `section.key=value` assignments; values are YAML.
    Raises:
        ConfigError: anything unknown, mistyped, missing or contradictory, all of it in one message.
    """
    return _checked(Recipe, _tree(path, overrides), str(path))


def load_methods(path: Path, overrides: Sequence[str] = ()) -> dict[str, Recipe]:
    """Of each of a recipe's methods the recipe with that method's settings in the place of train's, key by key.

    Raises:
        ConfigError: as `load_recipe`, naming the method; fewer than two methods, or two that train the same.
    """
    tree = _tree(path, overrides)
    methods = _checked(Recipe, tree, str(path)).methods
    if len(methods) < 2:
        raise ConfigError(
            f"{path}: methods: found {len(methods)}, two or more are compared. Give each a name and what it has in the "
            "place of the recipe's train, for instance  methods: {InfoNCE: {objective: [{loss: info-nce}]}, ...}"
        )
    found: dict[str, Recipe] = {}
    for name, settings in methods.items():
        if "seed" in settings:
            raise ConfigError(f"{path}, method {name}: all methods have the same seeds. Leave its seed out.")
        own = {**tree, "train": {**tree.get("train", {}), **settings}, "methods": {}}
        found[name] = _checked(Recipe, own, f"{path}, method {name}")
        for other, earlier in found.items():
            if other != name and earlier.train == found[name].train:
                raise ConfigError(f"{path}: methods {other} and {name} train the same. Leave one of them out.")
    own_of_all = set.intersection(*map(set, methods.values()))
    for override in overrides:
        section, _, key = override.partition("=")[0].strip().partition(".")
        if section == "train" and key.partition(".")[0] in own_of_all:
            raise ConfigError(f"--set {override}: each method has its own. Set methods.NAME.{key} instead.")
    return found


def _tree(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    return _merge(expand_variables(_read_yaml(path), str(path)), overrides, str(path))


def load_runtime(overrides: Sequence[str] = ()) -> RuntimeSettings:
    """The runtime section alone, for commands that need no recipe: environment and `--set runtime.…`.

    Raises:
        ConfigError: as `load_recipe`; also when another section is set.
    """
    merged = _merge({}, overrides, "--set")
    other = sorted(set(merged) - {"runtime"})
    if other:
        raise ConfigError(f"--set {other[0]}.…: only runtime settings apply here. Leave it out.")
    return _checked(RuntimeSettings, merged.get("runtime", {}), "runtime")


def _merge(recipe: dict[str, Any], overrides: Sequence[str], where: str) -> dict[str, Any]:
    _refuse_unknown_sections()
    try:
        layers = _Layers(**recipe)
    except (ValidationError, SettingsError) as error:
        raise ConfigError(f"{where}: {_explain(error, recipe)}") from error
    merged = layers.model_dump(exclude_unset=True)
    apply_overrides(merged, overrides)
    return merged


def _refuse_unknown_sections() -> None:
    """`BCLS__TRIAN__EPOCHS=3` would otherwise change nothing, silently."""
    prefix = "BCLS__"
    for name in sorted(os.environ):
        section = name.removeprefix(prefix).partition("__")[0].lower()
        if name.upper().startswith(f"{prefix}METHODS"):
            raise ConfigError(f"environment variable {name}: methods have names of their own; use --set methods.NAME.…")
        if name.upper().startswith(prefix) and section not in _Layers.model_fields:
            close = difflib.get_close_matches(section, list(_Layers.model_fields), n=1)
            suggestion = f" Did you mean {prefix}{close[0].upper()}__…?" if close else ""
            raise ConfigError(f"environment variable {name}: a recipe has no section {section!r}.{suggestion}")


def _checked(section: type[S], data: dict[str, Any], where: str) -> S:
    try:
        return section.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_explain(error, data)}") from error


def apply_overrides(tree: dict[str, Any], assignments: Iterable[str]) -> None:
    """Sets `section.key=value` in a tree of settings, in place; the value replaces whatever was there, whole.

    Raises:
        ConfigError: no `=`, a value that is not YAML, or a path through something that is no section.
    """
    for assignment in assignments:
        dotted, equals, text = assignment.partition("=")
        *sections, key = dotted.strip().split(".")
        if not equals or not all([*sections, key]):
            raise ConfigError(
                f"--set {assignment}: found no SECTION.KEY=VALUE. Write for instance --set train.epochs=3"
            )
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {assignment}: the value is not YAML ({error}). Quote it.") from error
        branch = tree
        for section in sections:
            branch = branch.setdefault(section, {})
            if not isinstance(branch, dict):
                raise ConfigError(f"--set {assignment}: {section} is a plain value, not a section. Set it as a whole.")
        branch[key] = value


def expand_variables(value: Any, where: str) -> Any:
    """Replaces `${NAME}` in every string of a tree of YAML values."""
    if isinstance(value, dict):
        return {key: expand_variables(item, f"{where}: {key}") for key, item in value.items()}
    if isinstance(value, list):
        return [expand_variables(item, where) for item in value]
    if not isinstance(value, str):
        return value

    def lookup(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise ConfigError(f"{where}: ${{{name}}} is not set. Set it, for instance: export {name}=/path")
        return os.environ[name]

    return _VARIABLE.sub(lookup, value)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a recipe ({error}).") from error
    try:
        data = yaml.load(text, _UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: found {type(data).__name__} at the top level, expected the sections of a recipe.")
    return data


def _explain(error: ValidationError | SettingsError, data: Mapping[str, Any]) -> str:
    if isinstance(error, SettingsError):
        return f"an environment variable BCLS__… cannot be read: {error}"
    problems = [_problem(dict(item), data) for item in error.errors(include_url=False)]
    return problems[0] if len(problems) == 1 else "\n".join([f"{len(problems)} settings are wrong", *problems])


def _problem(item: dict[str, Any], data: Any) -> str:
    place = _place(item["loc"], data)
    if item["type"] == "extra_forbidden":
        suggestion = _suggestion(str(item["loc"][-1]))
        return f"{place}: unknown key.{suggestion}"
    if item["type"] == "missing":
        way = "" if "[" in place else f", or give --set {place}=…"  # --set replaces lists whole
        return f"{place}: missing. Add it to the recipe{way}."
    message = item["msg"].removeprefix("Value error, ")
    speaks_for_itself = item["type"] == "value_error" or _SECRET.search(place)
    return f"{place or 'recipe'}: {message}" + ("" if speaks_for_itself else f"; found {item['input']!r}")


def _place(location: tuple[int | str, ...], data: Any) -> str:
    """`("ingest", "karpathy", "resize")` -> `ingest.resize`: the tags of unions are not keys of the recipe."""
    place = ""
    for position, key in enumerate(location):
        present = (isinstance(data, dict) and key in data) or (isinstance(data, list) and isinstance(key, int))
        if present:
            data = data[key]
        elif position < len(location) - 1:
            continue
        place += f"[{key}]" if isinstance(key, int) else f".{key}" if place else str(key)
    return place


def _suggestion(key: str) -> str:
    known = _known_keys(Recipe)
    owners = f" It belongs to {', '.join(known[key])}." if known.get(key) else ""
    close = difflib.get_close_matches(key, sorted(known.keys() - {key}), n=1, cutoff=0.9 if owners else 0.6)
    return owners + (f" Did you mean {close[0]}?" if close else "")


def _known_keys(model: type[BaseModel]) -> dict[str, list[str]]:
    """Every key that a recipe may have somewhere, and which parts of it have it: `loss: info-nce`, `train`."""
    schema = model.model_json_schema()
    sections = {f"#/$defs/{title}": section for title, section in schema.get("$defs", {}).items()}
    held_by: dict[str, list[str]] = {place: [] for place in sections}
    for section in (schema, *sections.values()):
        for name, part in section.get("properties", {}).items():
            for place in set(re.findall(r"#/\$defs/\w+", str(part))):
                held_by[place].append(name)
    known: dict[str, list[str]] = {key: ["the recipe's top level"] for key in schema["properties"]}
    for place, section in sections.items():
        held = section.get("properties", {})
        told = [f"{tag}: {held[tag]['const']}" for tag in _TAGS if "const" in held.get(tag, {})]
        for key in held:
            known[key] = sorted({*known.get(key, []), *(told[:1] or held_by[place])})
    return known
