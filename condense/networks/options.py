"""Options of a network, as they stand in a spec string such as "convnet:width=32,norm=batch"."""

from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from condense.errors import ConfigError, unknown


class Options(BaseModel):
    """Typed options of one family of networks. `smallest` is the least image side that it takes, in pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    smallest: ClassVar[int] = 1

    def resolve(self, size: int) -> Self:
        """These options with every default that follows from the image side filled in.

        Raises:
            ConfigError: the options do not fit together or do not fit images of this size.
        """
        if size < self.smallest:
            raise ConfigError(f"this network takes images of at least {self.smallest} px, not {size} px.")
        return self

    @classmethod
    def parse(cls, name: str, text: str) -> Self:
        """Read "key=value,key=value"; `name` is the network's, for messages.

        Raises:
            ConfigError: not of that form, an unknown or repeated key, a value of the wrong type or out of range.
        """
        given: dict[str, str] = {}
        for item in text.split(",") if text else ():
            key, equals, value = (part.strip() for part in item.partition("="))
            if not equals:
                raise ConfigError(f"network {name!r}: option {item!r} is not of the form key=value.")
            if not cls.model_fields:
                raise ConfigError(f"network {name!r} has no options, but {key!r} was given.")
            if key not in cls.model_fields:
                raise ConfigError(unknown(f"option of network {name!r}:", key, cls.model_fields))
            if key in given:
                raise ConfigError(f"network {name!r}: option {key!r} is given twice.")
            given[key] = value
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            problems = (f"{e['loc'][0]}={e['input']}: {e['msg']}" for e in error.errors())
            raise ConfigError(f"network {name!r}: {'; '.join(problems)}.") from None

    def __str__(self) -> str:
        return ",".join(f"{key}={value}" for key, value in self)
