"""
`script/bench`: this agent and the reference, side by side on one machine.

Nothing here is part of the agent.  Each agent runs in a L{cage} of its own, is asked by one L{client}, and its
heartbeats go to one L{receiver}; a L{figures.Figure} is what was learnt of it, and L{table} sets ours beside the
reference's.
"""
