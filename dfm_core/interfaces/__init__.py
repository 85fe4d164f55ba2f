"""What a component must be: one file a kind, each an abstract base class with its laws. Read these first.

A component is a subclass. Core builds it as `Class(options, facts)`: `options` is the checked pydantic model that the
component's spec names, `facts` what core has computed. In the order of dataset, autoencoder, decomposition, stage
schedule, timestep sampler and backbone, each gets to know what was made before it.

In shapes, B is the batch, C channels, S the number of stages, `*spatial` height × width (of clips: frames × height ×
width); C_s and `*spatial_s` are those of stage s. Stages go from coarse to fine, t from 0 (noise) to 1 (data).
"""
