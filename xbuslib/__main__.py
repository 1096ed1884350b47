from xbuslib.cli import main
from xbuslib.workflow import parent

parent.follow()
main()
