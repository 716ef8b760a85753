"""Reports: pages of HTML on what runs left in their workdirs."""
