"""The progress of long computations: their stages, how far each is, and displays of them.

`stages` has what computations report to, and `displays` what people see: a terminal, a notebook, or plain lines. The package
may use `errors`; it imports rich and IPython only to display. Interface for other packages: `stages` (`Progress`, `Stage`,
`Callback`), `displays` (`displayed`, `requested`) and `states.duration`.
"""
