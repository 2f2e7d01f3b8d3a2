"""Types of fields that tables of several kinds share."""

from typing import Annotated, Any

from pydantic import Field, StringConstraints

Reference = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*(:[A-Za-z_]\w*)?$")]
FunctionReference = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
Positive = Annotated[float, Field(gt=0)]
Arguments = dict[str, Any]
